-- Who may act for an account besides its owner. A row without accepted is an invitation and allows nothing. scope is empty where the role has one of
-- its own. mark is new with every change of the row: a write that was allowed by an older one is refused.
create table controller (
	did        text collate "C" not null references account (did) on delete cascade,
	controller text collate "C" not null check (controller <> did),
	role       text not null,
	scope      text not null,
	mark       text not null,
	invited    timestamptz not null,
	accepted   timestamptz,
	primary key (did, controller)
);
create index controller_controller on controller (controller);

-- What was done in the name of an account that several people act for. It stands beside the repository and never in it. actor and subject are null
-- once that person's account here was deleted.
create table act_log (
	did     text collate "C" not null,
	n       bigint generated always as identity,
	at      timestamptz not null,
	actor   text collate "C",
	client  text not null,
	method  text not null,
	action  text not null,
	path    text not null,
	subject text collate "C",
	cid     bytea,
	rev     text collate "C",
	primary key (did, n)
);
create index act_log_actor on act_log (actor) where actor <> did;
create index act_log_subject on act_log (subject) where subject is not null;
