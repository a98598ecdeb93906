-- What was seen on the network. Typed tables below are projections of record and can be rebuilt from it.

create table source (
    host text collate "C" primary key,
    seq  bigint not null,
    at   timestamptz not null default now()
);

create table repo (
    did    text collate "C" primary key,
    rev    text collate "C" not null,
    data   text collate "C" not null,
    host   text collate "C" not null,
    status text not null default 'active'
);

-- The current state of every record of our collections. A deletion leaves a tombstone (cid null), so that a late older write cannot bring the record back.
create table record (
    did     text collate "C" not null,
    coll    text collate "C" not null,
    rkey    text collate "C" not null,
    cid     text collate "C",
    rev     text collate "C" not null,
    cbor    bytea,
    invalid text,
    edited  bool not null default false,
    indexed timestamptz not null,
    primary key (did, coll, rkey)
);

-- Every version seen, so that a strongRef to an earlier one still opens.
create table record_version (
    did  text collate "C" not null,
    coll text collate "C" not null,
    rkey text collate "C" not null,
    cid  text collate "C" not null,
    rev  text collate "C" not null,
    cbor bytea not null,
    seen timestamptz not null,
    primary key (did, coll, rkey, cid)
);

create table dropped (
    reason text collate "C" primary key,
    count  bigint not null,
    did    text collate "C" not null,
    at     timestamptz not null
);

create table city (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    name text not null, tz text not null, langs text[] not null,
    ledger text collate "C" not null, log_origin text not null, log_vkey text not null, log_url text not null,
    primary key (did, rkey)
);

create table declaration (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    roles text[] not null,
    primary key (did, rkey)
);

create table organization (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    name text not null, summary text not null, function_types text[] not null, cities text[] not null,
    primary key (did, rkey)
);

create table accreditation (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    org text collate "C" not null, roles text[] not null, status text not null, function_type text not null,
    valid_from timestamptz not null, valid_until timestamptz,
    primary key (did, rkey)
);
create index on accreditation (org);

create table rule_set (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    title text not null,
    primary key (did, rkey)
);

create table catalog_entry (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    title text not null, summary text not null, tier int not null, credits_per_hour bigint not null,
    sensitivity text not null, verification_level int not null,
    origin_uri text collate "C", origin_cid text collate "C", decision_uri text collate "C",
    primary key (did, rkey)
);
create index on catalog_entry (origin_uri);

create table entry_status (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    status text not null, entry_uri text collate "C" not null, reason text not null,
    primary key (did, rkey)
);

create table task (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    title text not null, summary text not null, entry_uri text collate "C" not null, entry_cid text collate "C" not null,
    epoch text not null, book text not null, credits bigint not null, slots bigint not null,
    starts_at timestamptz not null, ends_at timestamptz not null, supersedes text collate "C",
    primary key (did, rkey)
);
create index on task (entry_uri);
create index on task (ends_at, did, rkey);

create table task_status (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    status text not null, task_uri text collate "C" not null, reason text not null,
    primary key (did, rkey)
);

create table claim (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    task_uri text collate "C" not null, task_cid text collate "C" not null, shift_id text not null,
    primary key (did, rkey)
);
create index on claim (task_uri);

create table proof (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    claim_uri text collate "C" not null, task_uri text collate "C" not null,
    primary key (did, rkey)
);
create index on proof (task_uri);

create table verification (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    task_uri text collate "C" not null, task_cid text collate "C" not null, shift_id text not null,
    outcome text not null, credits bigint not null, level int not null,
    claim_uri text collate "C", token bytea,
    primary key (did, rkey)
);
create index on verification (task_uri);

create table review (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    subject text collate "C" not null, rating int, body text not null,
    primary key (did, rkey)
);
create index on review (subject);

create table response (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    review_uri text collate "C" not null, body text not null,
    primary key (did, rkey)
);
create index on response (review_uri);

create table offering (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    title text not null, summary text not null, epoch text not null, book text not null,
    credits_per_unit bigint not null, unit_label text not null, committed_month bigint not null,
    public_price_minor bigint, currency text not null, supersedes text collate "C",
    primary key (did, rkey)
);

create table offering_status (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    status text not null, offering_uri text collate "C" not null,
    primary key (did, rkey)
);

create table redemption (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    offering_uri text collate "C" not null, receipt_uri text collate "C" not null,
    outcome text not null, units bigint not null, day text not null,
    primary key (did, rkey)
);
create index on redemption (offering_uri);
create index on redemption (receipt_uri);

create table receipt (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    seq bigint not null, kind text not null, book text not null, epoch text not null,
    amount bigint not null, votes bigint not null, issuer text collate "C" not null, day text not null,
    primary key (did, rkey)
);

create table checkpoint (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    size bigint not null, root bytea not null, at timestamptz not null,
    primary key (did, rkey)
);

create table parameter_set (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    effective_epoch text not null,
    primary key (did, rkey)
);

create table decision (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    result text not null,
    primary key (did, rkey)
);

-- The ledger's published log, checked against its signed checkpoint before a row is written.
create table log_entry (
    seq       bigint primary key,
    leaf      bytea not null,
    kind      text not null,
    book      text not null,
    epoch     text not null,
    day       text not null,
    org       text collate "C" not null,
    amount    bigint not null,
    votes     bigint not null,
    task_uri  text collate "C",
    nullifier bytea
);
create index on log_entry (kind, book, epoch);
create index on log_entry (task_uri) where task_uri is not null;
create index on log_entry (nullifier) where nullifier is not null;

create table log_cause (
    seq bigint not null,
    pos int not null,
    uri text collate "C" not null,
    cid text collate "C" not null,
    primary key (seq, pos)
);
create index on log_cause (uri);

-- Stored hashes of the tree in the order of x/mod/sumdb/tlog.
create table log_node (
    idx  bigint primary key,
    hash bytea not null check (length(hash) = 32)
);

create table log_head (
    one  bool primary key default true check (one),
    size bigint not null,
    root bytea not null,
    note text not null,
    at   timestamptz not null
);
