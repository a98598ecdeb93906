-- The log. Leaf bytes are the authority; everything else here can be rebuilt from them and from the openings,
-- except the facts and their evidence, which are copies of what strangers signed.
create table entry (
  seq  bigint primary key check (seq >= 0),
  kind text   collate "C" not null,
  leaf bytea  not null check (octet_length(leaf) between 1 and 61440),
  hash bytea  not null check (octet_length(hash) = 32)
);

-- Stored hashes of the tree in the order of golang.org/x/mod/sumdb/tlog.
create table node (
  idx  bigint primary key check (idx >= 0),
  hash bytea  not null check (octet_length(hash) = 32)
);

-- Checkpoints given to the network as records; the note is signed only for a root read back after its commit.
create table checkpoint (
  size bigint primary key check (size > 0),
  root bytea not null check (octet_length(root) = 32),
  note text  not null,
  at   timestamptz not null
);

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% on %: the log is append-only', tg_op, tg_table_name using errcode = 'insufficient_privilege';
end $$;

create trigger append_only before update or delete on entry for each row execute function refuse_change();
create trigger append_only_all before truncate on entry for each statement execute function refuse_change();
create trigger append_only before update or delete on node for each row execute function refuse_change();
create trigger append_only_all before truncate on node for each statement execute function refuse_change();
create trigger append_only before update or delete on checkpoint for each row execute function refuse_change();
create trigger append_only_all before truncate on checkpoint for each statement execute function refuse_change();

-- The head fences writers: each batch updates it where the term is its own. A process with an older term writes nothing.
create table head (
  one  boolean primary key default true check (one),
  term bigint not null,
  size bigint not null check (size >= 0),
  root bytea  not null
);
insert into head (term, size, root) values (0, 0, '');

create table meta (
  key   text primary key collate "C",
  value text not null
);

-- What validators under agreement may open. Erasure deletes rows here and in account_link; the log still verifies.
create table opening (
  seq    bigint primary key references entry (seq) deferrable initially deferred,
  sealed bytea not null check (octet_length(sealed) <= 16384)
);

create table account (
  id      bytea primary key check (octet_length(id) = 16),
  seq     bigint not null references entry (seq) deferrable initially deferred
);

create table account_link (
  did     text  primary key collate "C",
  account bytea not null unique references account (id)
);

-- Second guards: a failure of one of these checks is an alarm, never a refusal.
create table balance (
  account bytea  not null references account (id),
  book    text   collate "C" not null,
  credits bigint not null check (credits >= 0),
  votes   bigint not null check (votes >= 0),
  primary key (account, book)
);

create table account_entry (
  account bytea  not null,
  seq     bigint not null references entry (seq) deferrable initially deferred,
  primary key (account, seq)
);

create table cap_guard (
  book   text   collate "C" not null,
  epoch  text   collate "C" not null,
  cap    bigint not null check (cap >= 0),
  issued bigint not null default 0 check (issued between 0 and cap),
  primary key (book, epoch)
);

create table allocation_guard (
  book       text   collate "C" not null,
  epoch      text   collate "C" not null,
  issuer     text   collate "C" not null,
  allocation bigint not null check (allocation >= 0),
  issued     bigint not null default 0 check (issued between 0 and allocation),
  primary key (book, epoch, issuer)
);

create table epoch_key (
  epoch text  primary key collate "C",
  key   bytea not null check (octet_length(key) = 32)
);

create table idempotency (
  key    bytea primary key check (octet_length(key) = 32),
  body   bytea not null check (octet_length(body) = 32),
  answer bytea not null,
  at     timestamptz not null
);

-- Slots held beside the log. entered: the claim stands in the log; the order of arrival never does.
create table claim (
  ord     bigint generated always as identity,
  uri     text  primary key collate "C",
  cid     text  collate "C" not null,
  did     text  collate "C" not null,
  account bytea not null check (octet_length(account) = 16),
  author  text  collate "C" not null,
  task    text  collate "C" not null,
  task_uri text collate "C" not null,
  task_cid text collate "C" not null,
  shift   text  collate "C" not null,
  token   bytea not null check (octet_length(token) = 32),
  status  text  collate "C" not null check (status in ('held', 'entered', 'minted', 'rejected', 'lapsed', 'withdrawn')),
  proof   text  collate "C",
  public  boolean not null,
  claimed_at timestamptz not null
);
create unique index claim_token on claim (token) where status in ('held', 'entered', 'minted', 'rejected');
create index claim_author on claim (author, ord);
create index claim_shift on claim (task, shift);

-- Which task a version is a version of.
create table task_version (
  uri    text collate "C" not null,
  cid    text collate "C" not null,
  first  text collate "C" not null,
  primary key (uri, cid)
);
create index task_version_first on task_version (first);

-- Verifications by the claim they are about, so that a co-signer's is found.
create table verification (
  uri   text  collate "C" not null,
  cid   text  collate "C" not null,
  did   text  collate "C" not null,
  token bytea not null,
  primary key (uri, cid)
);
create index verification_token on verification (token);

-- A till as its redeemer bound it; the label is the redeemer's own word and not in the log.
create table till (
  id    text primary key collate "C",
  org   text collate "C" not null,
  key   text collate "C" not null,
  label text not null,
  seq   bigint not null references entry (seq) deferrable initially deferred
);

-- A code is kept as its hash only, and with the account it is bound to until it is used or swept.
create table code (
  hash     bytea primary key check (octet_length(hash) = 32),
  account  bytea not null check (octet_length(account) = 16),
  offering text  collate "C" not null,
  offering_cid text collate "C" not null,
  units    bigint not null check (units > 0),
  price    bigint not null check (price > 0),
  book     text collate "C" not null,
  made_at  timestamptz not null,
  expires_at timestamptz not null,
  status   text  collate "C" not null default 'open' check (status in ('open', 'redeemed', 'refused')),
  used_at  timestamptz,
  seq      bigint references entry (seq) deferrable initially deferred
);
create index code_expiry on code (expires_at);

-- Every version of a record of ours that was seen, as its author signed it, with the proof of that.
create table fact (
  ord  bigint generated always as identity unique,
  uri  text  collate "C" not null,
  cid  text  collate "C" not null,
  did  text  collate "C" not null,
  coll text  collate "C" not null,
  rkey text  collate "C" not null,
  rev  text  collate "C" not null,
  key  text  collate "C" not null,
  cbor bytea not null,
  evidence bytea not null,
  seen timestamptz not null,
  primary key (uri, cid)
);
create index fact_cid on fact (cid);
create index fact_coll on fact (did, coll, rkey);

-- The version that stands; a null cid is a tombstone.
create table current (
  did  text collate "C" not null,
  coll text collate "C" not null,
  rkey text collate "C" not null,
  cid  text collate "C",
  rev  text collate "C" not null,
  primary key (did, coll, rkey)
);
create index current_coll on current (coll);

create table status (
  uri    text collate "C" not null,
  cid    text collate "C" not null,
  status text collate "C" not null check (status in ('waiting', 'accepted', 'claimed', 'minted', 'refused')),
  name   text collate "C" not null default '',
  message text not null default '',
  figures text not null default '',
  wants  text[] not null default '{}',
  seq    bigint,
  at     timestamptz not null,
  primary key (uri, cid)
);

create table waiting (
  wants text collate "C" not null,
  uri   text collate "C" not null,
  cid   text collate "C" not null,
  did   text collate "C" not null,
  ord   bigint not null,
  until timestamptz not null,
  primary key (wants, uri, cid)
);
create index waiting_uri on waiting (uri, cid);
create index waiting_until on waiting (until);
create index waiting_did on waiting (did);

create table repo_state (
  did  text primary key collate "C",
  rev  text collate "C" not null,
  data bytea not null
);

create table source_cursor (
  host text primary key collate "C",
  seq  bigint not null
);

create table dropped (
  reason text primary key collate "C",
  count  bigint not null
);

create table service_auth_jti (
  key   text primary key collate "C",
  until timestamptz not null
);
create index service_auth_jti_until on service_auth_jti (until);

-- What stands in the ledger's own repository.
create table published_receipt (
  seq bigint primary key references entry (seq),
  uri text collate "C" not null,
  cid text collate "C" not null
);

create table published_checkpoint (
  size bigint primary key references checkpoint (size),
  uri  text collate "C" not null,
  cid  text collate "C" not null
);
