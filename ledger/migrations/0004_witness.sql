-- The quorum policies that the log names by their hash.
create table policy (
  hash bytea primary key check (octet_length(hash) = 32),
  text text not null check (octet_length(text) <= 16384),
  at   timestamptz not null
);

-- How far each witness has cosigned, as it said itself: asked again where it is not so.
create table witness (
  key  text   primary key collate "C",
  size bigint not null check (size >= 0)
);

-- The newest checkpoint that a quorum cosigned, with the cosignatures.
create table cosigned (
  one   boolean primary key default true check (one),
  size  bigint not null check (size > 0),
  root  bytea  not null check (octet_length(root) = 32),
  note  text   not null,
  names text[] not null,
  at    timestamptz not null
);
