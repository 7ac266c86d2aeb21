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
    for program in gnome-keyring-daemon dbus-run-session dbus-daemon secret-tool; do
        command -v "$program" >/dev/null || return 1
    done
}

# Nothing of the session that this runs in.
in_a_new_session() {
    exec env -i PATH="$PATH" HOME="$HOME" LANG=C.UTF-8 \
        XDG_DATA_HOME="$HOME/.local/share" XDG_RUNTIME_DIR="$HOME/run" "$@"
}

on_a_bus() {
    dbus-run-session -- "$@"
}

# Makes the keyring "login" with the password on standard input, or unlocks it.
unlock() {
    gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1
}

kind=$1
shift
case $kind in
install)
    install
    ;;
unlocked | locked | dead | absent)
    mkdir -p "$HOME/.cache" "$HOME/.local/share/dbus-1/services" "$HOME/run"
    chmod 700 "$HOME" "$HOME/run"
    in_a_new_session sh "$0" "in-$kind" "$@"
    ;;
in-unlocked)
    on_a_bus sh "$0" with-empty-password "$@"
    ;;
with-empty-password)
    echo | unlock
    exec "$@"
    ;;
in-locked)
    # A session that makes it, and then one in which nobody knows the password.
    on_a_bus sh "$0" with-password
    on_a_bus sh "$0" with-nothing "$@"
    ;;
with-password)
    echo password | unlock
    secret-tool search --all nothing nothing
    ;;
with-nothing)
    gnome-keyring-daemon --start --components=secrets >/dev/null 2>&1
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
