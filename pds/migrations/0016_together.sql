-- What a write ends with is a call: it is planned once for a connection, by keys, since what the planner knows of a young table is wrong. A scan that
-- cannot be avoided then looks costly enough to be compiled, at every call; it is not.

-- Gives events the numbers that are next, writes each number into its frame as CBOR writes whole numbers, in as few bytes as it fits, and tells
-- who listens. It is the last of a transaction: the row of event_head stays locked until the commit, so numbers become visible in their order.
create function tell_events(_dids text[], _kinds text[], _before bytea[], _after bytea[], _at timestamptz) returns void
language plpgsql set plan_cache_mode = 'force_generic_plan' set jit = off as $$
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
	perform pg_notify('pds_event', current_schema());
end $$;

-- Stores commits of new records on repositories as they are known: of each its head, its key, and that its account is active and nobody
-- else acts for it. What does not hold ends the transaction. Repositories come in the order of their DIDs, in which everybody locks them.
create function store_commits(
	_dids text[], _commits bytea[], _datas bytea[], _revs text[], _known bytea[], _keys bytea[],
	_record_dids text[], _collections text[], _rkeys text[], _record_cids bytea[], _record_revs text[],
	_gone_dids text[], _gone_cids bytea[],
	_block_dids text[], _block_cids bytea[], _block_revs text[], _bytes bytea[],
	_before bytea[], _after bytea[], _at timestamptz
) returns void
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
			and not exists (select from controller where did = _dids[i]);
		if not found then
			raise exception 'account % is not as it was known', _dids[i];
		end if;
	end loop;
	insert into record (did, collection, rkey, cid, rev)
	select * from unnest(_record_dids, _collections, _rkeys, _record_cids, _record_revs);
	for i in 1 .. cardinality(_gone_dids) loop
		delete from block where did = _gone_dids[i] and cid = _gone_cids[i]
			and not exists (select from record where did = _gone_dids[i] and cid = _gone_cids[i]);
	end loop;
	insert into block (did, cid, rev, bytes)
	select * from unnest(_block_dids, _block_cids, _block_revs, _bytes)
	on conflict (did, cid) do nothing;
	perform tell_events(_dids, array_fill('commit'::text, array[cardinality(_dids)]), _before, _after, _at);
end $$;

-- Frames and tree nodes are mostly hashes. What fits a page stays as it is: to compress it costs a write more than all its lookups.
alter table event alter column frame set storage external;
alter table event set (toast_tuple_target = 8160);
alter table block set (toast_tuple_target = 8160);
