-- A blob that was taken down: its file is apart, and it is known only so that it cannot come again.
alter table blob add column quarantined boolean not null default false;

-- What the blobs of each account take, so that an upload need not add them up. Whoever adds or removes blobs of an account locks its row here first.
create table blob_use (
	did   text collate "C" primary key references account (did) on delete cascade,
	used  bigint not null default 0 check (used >= 0),
	quota bigint check (quota >= 0) -- null: the server's own
);
insert into blob_use (did, used) select did, sum(size) from blob group by did;
