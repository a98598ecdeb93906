-- Whose code it is to give away; null: the operator's. Which accounts were made with it, and whether it still opens anything.
alter table invite add column did text collate "C" references account (did) on delete cascade;
alter table invite add column disabled boolean not null default false;
create index invite_did on invite (did) where did is not null;

create table invite_use (
	did  text collate "C" primary key, -- of the account that was made
	code text collate "C" not null references invite (code) on delete cascade,
	at   timestamptz not null
);
create index invite_use_code on invite_use (code, at);
