-- A CHECK of a table is kept as text, which each statement that writes to the table reads anew. What a column alone must be is said by its type
-- instead, which a session reads once. Nothing reads events by their time.
create domain event_number as bigint check (value >= 0);
create domain event_kind as text check (value in ('commit', 'sync', 'identity', 'account'));
alter table event
	drop constraint event_seq_check, drop constraint event_kind_check,
	alter column seq type event_number, alter column kind type event_kind;
create domain only_row as boolean check (value);
alter table event_head
	drop constraint event_head_one_check, drop constraint event_head_seq_check, drop constraint event_head_check,
	alter column one type only_row, alter column seq type event_number, alter column pruned type event_number;
drop index event_at;

-- Gives events the numbers that are next, writes each number into its frame as CBOR writes whole numbers, in as few bytes as it fits, and answers
-- with the last. It is the last of a transaction: the row of event_head stays locked until the commit, so numbers become visible in their order.
create function number_events(_dids text[], _kinds text[], _before bytea[], _after bytea[], _at timestamptz) returns bigint
language plpgsql as $$
declare
	_seq bigint;
	_raw bytea;
begin
	update event_head h set seq = h.seq + cardinality(_dids) returning h.seq - cardinality(_dids) into _seq;
	for i in 1 .. cardinality(_dids) loop
		_seq := _seq + 1;
		_raw := int8send(_seq);
		insert into event (seq, did, kind, frame, at) values (_seq, _dids[i], _kinds[i], _before[i] || case
			when _seq < 24 then substring(_raw from 8)
			when _seq < 256 then '\x18'::bytea || substring(_raw from 8)
			when _seq < 65536 then '\x19'::bytea || substring(_raw from 7)
			when _seq < 4294967296 then '\x1a'::bytea || substring(_raw from 5)
			else '\x1b'::bytea || _raw end || _after[i], _at);
	end loop;
	return _seq;
end $$;

-- Numbers events and tells who listens.
create or replace function tell_events(_dids text[], _kinds text[], _before bytea[], _after bytea[], _at timestamptz) returns void
language plpgsql set plan_cache_mode = 'force_generic_plan' set jit = off as $$
begin
	perform pg_notify('pds_event', current_schema() || ' ' || number_events(_dids, _kinds, _before, _after, _at));
end $$;

drop function store_commits;

-- Stores commits of new records on repositories as they are known: of each its head, its key, that its account is active, that nobody else
-- acts for it, and that the session is open on which it was taken, where that was not asked for before. What does not hold ends the transaction;
-- so does a block that is there, which is that of a record written a second time.
-- Repositories come in the order of their DIDs, in which everybody locks them. The answer is the number of the last event; whoever calls tells.
create function store_commits(
	_dids text[], _commits bytea[], _datas bytea[], _revs text[], _known bytea[], _keys bytea[], _sessions text[],
	_record_of int[], _collections text[], _rkeys text[], _record_cids bytea[],
	_gone_of int[], _gone_cids bytea[],
	_block_of int[], _block_cids bytea[], _bytes bytea[],
	_before bytea[], _after bytea[], _at timestamptz
) returns bigint
language plpgsql set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off set jit = off as $$
begin
	for i in 1 .. cardinality(_dids) loop
		update repo set commit_cid = _commits[i], data_cid = _datas[i], rev = _revs[i]
		where did = _dids[i] and commit_cid = _known[i] and rev < _revs[i];
		if not found then
			raise exception 'repository % is not as it was known', _dids[i];
		end if;
		-- After the lock, and a statement of its own: beside the lock it would be as old as the wait for it.
		perform from account where did = _dids[i] and status = 'active' and signing_key = _keys[i]
			and not exists (select from controller where did = _dids[i])
			and (_sessions[i] = '' or exists (
				select from session where id = _sessions[i] and did = _dids[i] and expires > _at and app_password is null));
		if not found then
			raise exception 'account % is not as it was known', _dids[i];
		end if;
	end loop;
	-- Lists are asked by index: unnest puts each away in a store of its own before the first row is looked at.
	insert into record (did, collection, rkey, cid, rev)
	select _dids[_record_of[i]], _collections[i], _rkeys[i], _record_cids[i], _revs[_record_of[i]] from generate_series(1, cardinality(_record_of)) i;
	-- One statement, since to begin one costs as much as three of its deletions. Rows are named by ctid, so that each is looked up by its key.
	delete from block where ctid = any (array(
		select b.ctid from generate_series(1, cardinality(_gone_of)) i, lateral (
			select ctid from block where did = _dids[_gone_of[i]] and cid = _gone_cids[i]
				and not exists (select from record where did = _dids[_gone_of[i]] and cid = _gone_cids[i]) offset 0) b));
	insert into block (did, cid, rev, bytes)
	select _dids[_block_of[i]], _block_cids[i], _revs[_block_of[i]], _bytes[i] from generate_series(1, cardinality(_block_of)) i;
	return number_events(_dids, array_fill('commit'::text, array[cardinality(_dids)]), _before, _after, _at);
end $$;
