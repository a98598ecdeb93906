-- People who run this server, each by a name of their own. The operator named admin needs no row: it is whoever holds the secret file.
create table operator (
	name     text collate "C" primary key check (name ~ '^[a-z][a-z0-9-]{1,31}$' and name <> 'admin'),
	role     text not null check (role in ('administrator', 'moderator', 'reader')),
	password text not null,
	created  timestamptz not null,
	disabled timestamptz
);

-- What an operator gives in place of the password where no second factor can be asked for. Only its hash is kept.
create table operator_token (
	hash     bytea primary key,
	operator text collate "C" not null references operator (name) on delete cascade,
	created  timestamptz not null,
	expires  timestamptz not null
);

-- A browser in which an operator is signed in.
create table operator_device (
	hash     bytea primary key,
	operator text collate "C" not null,
	created  timestamptz not null,
	expires  timestamptz not null
);

-- What operators did and looked at. A row is there before its act begins, so that none goes unseen; outcome says how it ended. Of a deleted
-- account the row stays and the DID goes.
create table operator_log (
	id       bigint generated always as identity primary key,
	at       timestamptz not null,
	operator text collate "C" not null,
	method   text collate "C" not null,
	did      text collate "C",
	detail   text not null default '',
	outcome  text not null default 'begun'
);
create index operator_log_did on operator_log (did, id);

-- What was taken down: an account (collection and rkey empty), or a record. ref is the moderator's own reference; was is the account's status before.
create table takedown (
	did        text collate "C" not null references account (did) on delete cascade,
	collection text collate "C" not null default '',
	rkey       text collate "C" not null default '',
	ref        text not null,
	was        text,
	at         timestamptz not null,
	primary key (did, collection, rkey)
);

-- Repositories that begin anew in the stream, since a restored server's consumers have seen more than it knows.
create table resync (
	did text collate "C" primary key references account (did) on delete cascade
);
