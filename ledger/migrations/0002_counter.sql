-- A till opens its day with a PIN, of which only an argon2id hash is kept. Where there is none, the till cannot open:
-- a log that was restored without these tables waits for its redeemers to set them.
alter table till
  add column pin       text,
  add column wrong     int not null default 0 check (wrong between 0 and 5), -- tries since the last right one
  add column said_at   timestamptz, -- of the last opening or closing that the till signed
  add column opened_at timestamptz, -- null: closed
  add column ended_at  timestamptz; -- withdrawn for good

-- A code stands for its redemption after it was used too: with a till it was burned for that till and shown by a voucher.
alter table code
  add column till     text collate "C",
  add column reversed bigint references entry (seq) deferrable initially deferred,
  drop constraint code_status_check,
  add constraint code_status_check check (status in ('open', 'redeemed', 'refused', 'returned'));

-- What a till's day came to stands in the log; this says where. No person is in it.
create table till_entry (
  till text collate "C" not null,
  day  text collate "C" not null,
  seq  bigint not null,
  primary key (till, day, seq)
);

alter table balance add column aside bigint not null default 0 check (aside >= 0);

-- A hold of a resident. asked_at: the resident took it back, which holds when the till has told what it honored.
create table hold (
  seq      bigint primary key,
  account  bytea  not null check (octet_length(account) = 16),
  till     text   collate "C" not null,
  asked_at timestamptz,
  ended_at timestamptz,
  ended_as text   collate "C" check (ended_as in ('captured', 'expired', 'refused', 'cancelled', 'bookClosed')),
  check ((ended_at is null) = (ended_as is null))
);
create index hold_till on hold (till) where asked_at is not null and ended_at is null;
create index hold_account on hold (account);

-- A card is kept by what is derived from its number, slowly: who reads this table does not learn the number.
create table card (
  name     bytea primary key check (octet_length(name) = 32),
  account  bytea not null check (octet_length(account) = 16),
  pin      text  not null, -- of number and PIN together
  wrong    int   not null default 0 check (wrong between 0 and 5),
  made_at  timestamptz not null,
  ended_at timestamptz
);
create unique index card_account on card (account) where ended_at is null;
