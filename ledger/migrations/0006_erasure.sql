-- Whose an answer is, so that it is forgotten with its person.
alter table idempotency add column caller text collate "C";
create index idempotency_caller on idempotency (caller);

-- Where the log says, sealed, that a person verifies for an organization.
create table staff_entry (
  did text   not null collate "C",
  seq bigint not null references entry (seq) deferrable initially deferred,
  primary key (did, seq)
);

-- Whose records are not taken any more: a keyed hash of the DID, until its host says that the account is deleted.
create table forgotten (
  mark bytea primary key check (octet_length(mark) = 32)
);
