-- An opening that is null was destroyed because its person asked to be forgotten; one that is missing is a fault.
alter table opening alter column sealed drop not null;

-- A claim on a sealed task has no record: its uri is that of none, and its proof is a commitment alone.
alter table claim add column sealed boolean not null default false;
alter table claim add column proof_commitment bytea check (octet_length(proof_commitment) = 32);
alter table claim add column proof_padded bigint;

-- Objections by the key that the city's answer to them has. uri and author are forgotten with their author; what was held stays held.
create table dispute (
  key     text primary key collate "C",
  uri     text unique collate "C",
  cid     text not null collate "C",
  did     text collate "C",
  kind    text not null collate "C",
  subject_uri text not null collate "C",
  subject_cid text not null collate "C",
  seen    timestamptz not null,
  due     timestamptz not null,
  answer  text not null default '' collate "C",
  answered_at timestamptz,
  ruling  text not null default '' collate "C",
  held    text not null default '' collate "C",
  target  text not null default '' collate "C"
);
create index dispute_author on dispute (did);
create index dispute_target on dispute (target) where held <> '';

-- What a ruling orders about a verification.
create table remedy (
  subject_uri text not null collate "C",
  subject_cid text not null collate "C",
  kind text not null collate "C",
  org  text not null collate "C",
  uri  text not null collate "C",
  cid  text not null collate "C",
  primary key (subject_uri, kind, org, uri, cid)
);
