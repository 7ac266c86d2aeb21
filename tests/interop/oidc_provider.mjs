// An authorization server on the npm package oidc-provider, for tests alone.
//
//     node oidc_provider.mjs DIRECTORY [options]
//
// DIRECTORY is where `npm install --prefix` put the package. It listens on loopback and
// prints one line of JSON as soon as it does: its issuer and what a resource server needs
// for introspection. Anybody may register, and sign in with any name and password.
//
// For the tests it also answers
//     GET  /_test/counters         what it has been asked, as JSON
//     POST /_test/fault            what goes wrong with the next token requests
//     POST /_test/client_metadata  {"url": ..., "document": ...}: what a client ID
//                                  metadata document at that URL is to be

import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const SCOPES = ['mcp:read', 'mcp:write'];

const { positionals, values: options } = parseArgs({
  allowPositionals: true,
  options: {
    port: { type: 'string', default: '0' },
    // Seconds.
    'access-token-ttl': { type: 'string', default: '3600' },
    'refresh-token-ttl': { type: 'string', default: '86400' },
    // Refresh tokens only for those who ask for the scope offline_access.
    'offline-access': { type: 'boolean', default: false },
    // Every proof must have a nonce of this server.
    'dpop-nonce': { type: 'boolean', default: false },
  },
});

const directory = resolve(positionals[0], 'package.json');
const entry = createRequire(directory).resolve('oidc-provider');
const { Provider, errors } = await import(pathToFileURL(entry));

const counters = {
  metadata: 0,
  registrations: 0,
  // Codes given.
  authorizations: 0,
  revocations: 0,
  introspections: 0,
  // Token requests by grant type: those that were processed, and those granted.
  token_requests: {},
  token_grants: {},
  // Token requests that have not been answered, a fault's delay included.
  token_pending: 0,
  token_log: [],
};
const documents = new Map();
const faults = [];

const count = (map, key) => {
  map[key] = (map[key] ?? 0) + 1;
};

// No client is asked for anything but what the test has said it serves.
async function fetchDocument(url) {
  const document = documents.get(String(url));
  if (document === undefined) return new Response('', { status: 404 });
  return Response.json(document);
}

function resourceServer(ctx, resource) {
  if (!['127.0.0.1', 'localhost'].includes(new URL(resource).hostname)) {
    throw new errors.InvalidTarget();
  }
  return {
    scope: SCOPES.join(' '),
    audience: resource,
    accessTokenFormat: 'opaque',
    accessTokenTTL: Number(options['access-token-ttl']),
  };
}

function mayRefresh(ctx, client, source) {
  if (!client.grantTypeAllowed('refresh_token')) return false;
  return !options['offline-access'] || source.scopes.has('offline_access');
}

function configuration(secret) {
  return {
    clients: [
      {
        client_id: 'resource-server',
        client_secret: secret,
        grant_types: [],
        response_types: [],
        redirect_uris: [],
      },
    ],
    clientAuthMethods: ['none', 'client_secret_basic', 'client_secret_post'],
    cookies: { keys: [randomBytes(16).toString('hex')] },
    expiresWithSession: () => false,
    features: {
      clientIdMetadataDocument: { enabled: true, ack: 'draft-02' },
      dPoP: {
        enabled: true,
        nonceSecret: options['dpop-nonce'] ? randomBytes(32) : undefined,
        requireNonce: () => options['dpop-nonce'],
      },
      introspection: { enabled: true },
      registration: { enabled: true },
      resourceIndicators: { enabled: true, getResourceServerInfo: resourceServer },
      revocation: { enabled: true },
    },
    fetch: fetchDocument,
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    issueRefreshToken: mayRefresh,
    pkce: { required: () => true },
    responseTypes: ['code'],
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access', ...SCOPES],
    ttl: {
      AccessToken: Number(options['access-token-ttl']),
      RefreshToken: Number(options['refresh-token-ttl']),
    },
  };
}

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString());
}

// A fault has any of
//     times         how many token requests it is for, by default 1
//     status        answer that, with retry_after if given, and process nothing
//     drop_before   process nothing, and close the connection without an answer
//     delay_ms      wait so long between processing and answering
//     drop_after    process the request, then close the connection without an answer
async function control(ctx) {
  if (ctx.method === 'GET' && ctx.path === '/_test/counters') {
    ctx.body = counters;
  } else if (ctx.method === 'POST' && ctx.path === '/_test/fault') {
    const { times = 1, ...fault } = await bodyOf(ctx.req);
    for (let number = 0; number < times; number += 1) faults.push(fault);
    ctx.status = 204;
  } else if (ctx.method === 'POST' && ctx.path === '/_test/client_metadata') {
    const { url, document } = await bodyOf(ctx.req);
    documents.set(url, document);
    ctx.status = 204;
  }
}

async function token(ctx, next) {
  const fault = faults.shift() ?? {};
  counters.token_pending += 1;
  try {
    if (fault.status !== undefined) {
      if (fault.retry_after !== undefined) ctx.set('Retry-After', `${fault.retry_after}`);
      ctx.status = fault.status;
      return;
    }
    if (!fault.drop_before) {
      await next();
      record(ctx);
      if (fault.delay_ms) await delay(ctx, fault.delay_ms);
    }
    if (fault.drop_before || fault.drop_after) {
      ctx.respond = false;
      ctx.req.socket.destroy();
    }
  } finally {
    counters.token_pending -= 1;
  }
}

function record(ctx) {
  const { params = {}, client } = ctx.oidc;
  const grantType = ctx.oidc.body?.grant_type ?? 'unknown';
  count(counters.token_requests, grantType);
  if (ctx.status === 200) count(counters.token_grants, grantType);
  counters.token_log.push({
    grant_type: grantType,
    client_id: client?.clientId,
    client_auth: ctx.get('Authorization') ? 'basic' : client?.clientAuthMethod,
    resource: params.resource,
    dpop: ctx.get('DPoP') !== '',
    status: ctx.status,
    error: ctx.body?.error,
  });
}

// Whoever waits for the answer may be killed meanwhile.
async function delay(ctx, milliseconds) {
  const gone = new AbortController();
  const abort = () => gone.abort();
  ctx.req.socket.once('close', abort);
  await sleep(milliseconds, undefined, { signal: gone.signal }).catch(() => {});
  ctx.req.socket.off('close', abort);
}

async function observe(ctx, next) {
  if (ctx.path.startsWith('/_test/')) return control(ctx);
  if (ctx.method === 'POST' && ctx.path === '/token') return token(ctx, next);
  if (ctx.path.startsWith('/.well-known/')) counters.metadata += 1;
  await next();
  if (ctx.path === '/token/revocation' && ctx.status === 200) counters.revocations += 1;
  if (ctx.path === '/token/introspection') counters.introspections += 1;
  return undefined;
}

const server = createServer();
server.listen(Number(options.port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const secret = randomBytes(16).toString('hex');
  const provider = new Provider(issuer, configuration(secret));
  provider.use(observe);
  provider.on('registration_create.success', () => {
    counters.registrations += 1;
  });
  provider.on('authorization.success', () => {
    counters.authorizations += 1;
  });
  server.on('request', provider.callback());
  const introspection = `${issuer}/token/introspection`;
  console.log(
    JSON.stringify({ issuer, introspection, client_id: 'resource-server', secret }),
  );
});
