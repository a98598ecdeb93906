-- An authorization request that a client pushed. From code on stands the owner's answer; the code itself is hashed.
create table oauth_request (
	id         text collate "C" primary key,
	client     text collate "C" not null,
	client_key text not null, -- thumbprint of the key with which the client showed who it is; empty for a public client
	jkt        text not null, -- thumbprint of the client's DPoP key
	redirect   text not null,
	state      text not null,
	mode       text not null check (mode in ('query', 'fragment')),
	scope      text not null,
	challenge  text not null,
	hint       text not null,
	prompt     text not null,
	created    timestamptz not null,
	expires    timestamptz not null,
	code       bytea unique,
	did        text collate "C" references account (did) on delete cascade,
	actor      text collate "C",
	device     text,
	check ((code is null) = (did is null) and (code is null) = (actor is null) and (code is null) = (device is null))
);
create index oauth_request_expires on oauth_request (expires);
create index oauth_request_did on oauth_request (did) where did is not null;

-- What a client was granted. Its tokens are made from seed and generation with a secret that is not here; code is the hash
-- of the code it came of, by which a second use of that code finds what to end.
create table oauth_session (
	id          text collate "C" primary key,
	did         text collate "C" not null references account (did) on delete cascade,
	actor       text collate "C" not null,
	client      text collate "C" not null,
	client_key  text not null,
	client_name text not null,
	client_uri  text not null,
	jkt         text not null,
	scope       text not null,
	device      text not null,
	code        bytea not null unique,
	seed        bytea not null,
	generation  bigint not null check (generation > 0),
	created     timestamptz not null,
	rotated     timestamptz not null,
	expires     timestamptz not null,
	ends        timestamptz not null check (expires <= ends)
);
create index oauth_session_did on oauth_session (did, created desc);
create index oauth_session_expires on oauth_session (expires);

-- Proofs that were used. A row is written with every request of an app, so it must cost no flush of the log: the table is
-- unlogged, and a crash empties it. It empties oauth_salt too, and with the salt goes every nonce that a forgotten proof had.
create unlogged table oauth_proof (
	key   bytea primary key,
	until timestamptz not null
);
create index oauth_proof_until on oauth_proof (until);

create unlogged table oauth_salt (
	one  boolean primary key default true check (one),
	salt bytea not null
);

-- What else works once and must survive a crash: client assertions, and code challenges for a day. Names are hashes.
create table oauth_once (
	key   bytea primary key,
	until timestamptz not null
);
create index oauth_once_until on oauth_once (until);
