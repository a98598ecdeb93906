-- A sign-up that has a DID and keys but is not an account yet. It is committed before the
-- PLC directory hears of the DID, so a creation that stops half way can be taken up again.
create table signup (
	handle      text collate "C" primary key,
	did         text collate "C" not null unique,
	operation   jsonb not null,
	password    text not null,
	email       text unique,
	invite      text,
	signing_key bytea not null,
	created     timestamptz not null
);
create index signup_created on signup (created);

create table account (
	did         text collate "C" primary key,
	handle      text collate "C" not null unique,
	email       text unique,
	password    text not null,
	status      text not null check (status in ('active', 'deactivated', 'suspended', 'takendown', 'deleted')),
	signing_key bytea not null,
	created     timestamptz not null
);

create table invite (
	code    text collate "C" primary key,
	uses    int not null check (uses > 0),
	used    int not null default 0 check (used between 0 and uses),
	created timestamptz not null
);

-- No token stands here: a refresh token names its session and generation, and is signed.
create table session (
	id         text collate "C" primary key,
	did        text collate "C" not null references account (did) on delete cascade,
	generation bigint not null check (generation > 0),
	rotated    timestamptz not null,
	expires    timestamptz not null
);
create index session_did on session (did);
create index session_expires on session (expires);

create table repo (
	did        text collate "C" primary key references account (did),
	commit_cid bytea not null,
	data_cid   bytea not null,
	rev        text collate "C" not null
);

-- Exactly the blocks that the head of each repository reaches. rev is the commit that
-- brought the block in, for reads "since". Rows of block and record are written only
-- under the lock of their row in repo, so a foreign key would cost much and add nothing.
create table block (
	did   text collate "C" not null,
	cid   bytea not null,
	rev   text collate "C" not null,
	bytes bytea not null,
	primary key (did, cid)
);

create table record (
	did        text collate "C" not null,
	collection text collate "C" not null,
	rkey       text collate "C" not null,
	cid        bytea not null,
	rev        text collate "C" not null,
	primary key (did, collection, rkey)
);
create index record_cid on record (did, cid);

-- An uploaded blob is seen by nobody until a record of its account refers to it.
-- touched is the upload, or the moment a reference went. The foreign key of record_blob
-- keeps the collector from taking a blob that a write has just referred to.
create table blob (
	did     text collate "C" not null references account (did),
	cid     bytea not null,
	mime    text not null,
	size    bigint not null check (size >= 0),
	touched timestamptz not null,
	primary key (did, cid)
);
create index blob_touched on blob (touched);

create table record_blob (
	did        text collate "C" not null,
	cid        bytea not null,
	collection text collate "C" not null,
	rkey       text collate "C" not null,
	primary key (did, cid, collection, rkey),
	foreign key (did, cid) references blob (did, cid)
);
create index record_blob_record on record_blob (did, collection, rkey);

-- One row. Its lock is the order of the firehose: a number is taken last in a write's
-- transaction, so numbers become visible in their own order.
create table event_head (
	one    boolean primary key default true check (one),
	seq    bigint not null check (seq >= 0),
	pruned bigint not null check (pruned between 0 and seq)
);
insert into event_head (seq, pruned) values (0, 0);

create table event (
	seq   bigint primary key check (seq > 0),
	did   text collate "C" not null,
	kind  text not null check (kind in ('commit', 'sync', 'identity', 'account')),
	frame bytea not null,
	at    timestamptz not null
);
create index event_at on event (at);

create table service_auth_jti (
	key   text collate "C" primary key,
	until timestamptz not null
);
create index service_auth_jti_until on service_auth_jti (until);
