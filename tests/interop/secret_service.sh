#!/bin/sh
# A desktop's Secret Service for tests: gnome-keyring on a D-Bus session of its own.
#
#     secret_service.sh install             what it takes, on Debian (as root)
#     secret_service.sh KIND COMMAND...     runs a command, with $HOME as its desktop
#
# KIND: unlocked   the keyring is there, its password is empty
#       locked     it is there, and nobody unlocks it
#       dead       D-Bus starts a service that never answers
#       absent     there is no D-Bus
set -eu

install() {
    if has_all; then return; fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends \
        gnome-keyring dbus dbus-daemon libsecret-tools
    has_all
}

has_all() {
    for program in gnome-keyring-daemon dbus-run-session dbus-send secret-tool; do
        command -v "$program" >/dev/null || return 1
    done
}

# Nothing of the session that this runs in, nor of one before it: a daemon that is about
# to end still answers at its socket. The socket's name must be short.
in_a_new_session() {
    runtime=$(mktemp -d /tmp/secret-service.XXXXXX)
    trap remove_runtime EXIT
    env -i PATH="$PATH" HOME="$HOME" LANG=C.UTF-8 \
        XDG_DATA_HOME="$HOME/.local/share" XDG_RUNTIME_DIR="$runtime" "$@"
}

# A daemon that has not ended yet may make something in it once more.
remove_runtime() {
    for _ in 1 2 3 4 5; do
        rm -rf "$runtime" 2>/dev/null && return
        sleep 0.2
    done
}

on_a_bus() {
    dbus-run-session -- "$@"
}

# Makes the keyring "login" with the password on standard input, or unlocks it.
unlock() {
    gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1
    wait_for_service
}

# It goes on in the background before it has its name; whoever asks for that name too
# early makes D-Bus start a second one.
wait_for_service() {
    for _ in $(seq 300); do
        if dbus-send --session --print-reply --dest=org.freedesktop.DBus \
            /org/freedesktop/DBus org.freedesktop.DBus.NameHasOwner \
            string:org.freedesktop.secrets | grep -q 'boolean true'; then
            return
        fi
        sleep 0.1
    done
    echo "secret_service.sh: gnome-keyring-daemon did not come up" >&2
    return 1
}

kind=$1
shift
case $kind in
install)
    install
    ;;
unlocked | locked | dead | absent)
    mkdir -p "$HOME/.cache" "$HOME/.local/share/dbus-1/services"
    chmod 700 "$HOME"
    if [ "$kind" = locked ]; then
        # A session that makes it, and then one in which nobody knows the password.
        (in_a_new_session sh "$0" in-session with-password)
    fi
    in_a_new_session sh "$0" "in-$kind" "$@"
    ;;
in-unlocked)
    on_a_bus sh "$0" with-empty-password "$@"
    ;;
with-empty-password)
    echo | unlock
    exec "$@"
    ;;
in-session)
    on_a_bus sh "$0" "$@"
    ;;
with-password)
    echo password | unlock
    ;;
in-locked)
    on_a_bus sh "$0" with-nothing "$@"
    ;;
with-nothing)
    gnome-keyring-daemon --start --components=secrets >/dev/null 2>&1
    wait_for_service
    exec "$@"
    ;;
in-dead)
    # It ends by itself, after whoever asks has given up.
    cat >"$HOME/.local/share/dbus-1/services/org.freedesktop.secrets.service" <<END
[D-BUS Service]
Name=org.freedesktop.secrets
Exec=/bin/sh -c 'exec sleep 25 >/dev/null 2>&1'
END
    on_a_bus "$@"
    ;;
in-absent)
    exec "$@"
    ;;
*)
    echo "secret_service.sh: what is $kind?" >&2
    exit 2
    ;;
esac
