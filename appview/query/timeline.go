package query

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Node is one step of a task's chain, from the catalog to the receipt.
type Node struct {
	// Step is draft | decision | entry | entryStatus | task | taskStatus | reserve | release | claim | unclaim | proof | verification | mint | reverse |
	// receipt | review | dispute | resolution | pause | resume.
	Step string
	URI  string    // of the record; "" for a log entry
	CID  string    // "" for a log entry
	DID  string    // who signed the record, or the organization of the log entry
	Seq  int64     // of the log entry; -1 for a record
	Seen time.Time // when the index first saw the record; zero for a log entry
	// Withdrawn says that its author's repository holds no version of the record any more. What the log made of it stands.
	Withdrawn bool
	Reversed  bool // a later entry took from what this one gave
}

// maxNodes bounds one chain. A task has at most 100 shifts of 10,000 slots; its page shows the first steps and counts the rest.
const maxNodes = 1000

// Timeline gives the chain of one task: every record and log entry that belongs to it, in the order of the lifecycle. The second value
// says that there are more nodes than are shown.
func (db *DB) Timeline(ctx context.Context, taskURI string) ([]Node, bool, error) {
	task, err := db.Task(ctx, taskURI)
	if err != nil {
		return nil, false, err
	}
	nodes, err := list[Node](ctx, db, "timeline", `
with entry as (select e.did, e.rkey, e.cid, e.origin_uri, e.origin_cid, e.decision_uri from catalog_entry e
		where 'at://' || e.did || '/org.city-sync.catalog.entry/' || e.rkey = @entry),
	claims as (select c.did, c.rkey, c.cid from claim c where c.task_uri = @task),
	entries as (select distinct l.seq, l.kind, l.org from log_entry l left join log_cause c using (seq)
		where l.kind in ('reserve', 'release', 'claim', 'unclaim', 'mint') and (l.task_uri = @task or c.uri = @task)),
	cited as (select distinct on (c.uri, c.cid) c.uri, c.cid, c.rev from entries join log_cause c using (seq)
		where kind = 'mint' and split_part(c.uri, '/', 4) = 'org.city-sync.work.verification' order by c.uri, c.cid, c.rev desc),
	disputes as (select 'at://' || did || '/org.city-sync.gov.dispute/' || rkey as uri, cid, did from dispute
		where subject = @task or subject in (select 'at://' || did || '/org.city-sync.work.verification/' || rkey from verification where task_uri = @task)
			or subject in (select uri from cited)),
	steps as (
	select 1 as place, 'draft' as step, origin_uri as uri, origin_cid as cid, split_part(origin_uri, '/', 3) as did, -1::bigint as seq from entry where origin_uri is not null
	union all select 2, 'decision', decision_uri, coalesce((select cid from decision d where 'at://' || d.did || '/org.city-sync.gov.decision/' || d.rkey = decision_uri), ''),
		split_part(decision_uri, '/', 3), -1 from entry where decision_uri is not null
	union all select 3, 'entry', 'at://' || did || '/org.city-sync.catalog.entry/' || rkey, cid, did, -1 from entry
	union all select 4, 'entryStatus', 'at://' || s.did || '/org.city-sync.catalog.entryStatus/' || s.rkey, s.cid, s.did, -1 from entry_status s join entry e using (did, rkey)
	union all select 5, 'task', 'at://' || did || '/' || coll || '/' || rkey, cid, did, -1 from record_version
		where did = split_part(@task, '/', 3) and coll = 'org.city-sync.work.task' and rkey = split_part(@task, '/', 5)
	union all select 6, 'taskStatus', 'at://' || did || '/org.city-sync.work.taskStatus/' || rkey, cid, did, -1 from task_status where task_uri = @task
	union all select 7, kind, '', '', org, seq from entries where kind in ('reserve', 'release')
	union all select 8, 'claim', 'at://' || did || '/org.city-sync.work.claim/' || rkey, cid, did, -1 from claims
	union all select 9, kind, '', '', org, seq from entries where kind in ('claim', 'unclaim')
	union all select 10, 'proof', 'at://' || did || '/org.city-sync.work.proof/' || rkey, cid, did, -1 from proof where task_uri = @task
	union all select 11, 'verification', 'at://' || did || '/org.city-sync.work.verification/' || rkey, cid, did, -1 from verification where task_uri = @task
	union all select 11, 'verification', uri, cid, split_part(uri, '/', 3), -1 from cited where not exists (
		select from verification v where v.task_uri = @task and v.cid = cited.cid and 'at://' || v.did || '/org.city-sync.work.verification/' || v.rkey = cited.uri)
	union all select 12, 'mint', '', '', org, seq from entries where kind = 'mint'
	union all select 12, 'reverse', '', '', r.org, r.seq from log_entry r join entries e on r.refers = e.seq where r.kind = 'reverse'
	union all select 13, 'receipt', 'at://' || r.did || '/org.city-sync.ledger.receipt/' || r.rkey, r.cid, r.did, r.seq from receipt r join entries e using (seq) where e.kind = 'mint'
	union all select 14, 'review', 'at://' || did || '/org.city-sync.work.review/' || rkey, cid, did, -1 from review where subject = @task
	union all select 15, 'dispute', uri, cid, did, -1 from disputes
	union all select case when r.rkey like '%-hold' then 16 else 17 end, 'resolution', 'at://' || r.did || '/org.city-sync.gov.resolution/' || r.rkey, r.cid, r.did, -1
		from resolution r join disputes d on r.dispute_uri = d.uri where r.did = @city
	union all select 18, kind, '', '', org, seq from log_entry where kind in ('pause', 'resume') and what = 'task' and subject = @task
)
select s.step, s.uri, s.cid, s.did, s.seq, exists (select from log_entry x where x.refers = s.seq and x.kind = 'reverse') as reversed, coalesce(v.seen, 'epoch'::timestamptz) as seen, s.uri <> '' and `+withdrawn+` as withdrawn
from steps s left join record_version v
	on s.uri <> '' and v.did = split_part(s.uri, '/', 3) and v.coll = split_part(s.uri, '/', 4) and v.rkey = split_part(s.uri, '/', 5) and v.cid = s.cid
left join record r
	on s.uri <> '' and r.did = split_part(s.uri, '/', 3) and r.coll = split_part(s.uri, '/', 4) and r.rkey = split_part(s.uri, '/', 5)
left join repo p on s.uri <> '' and p.did = split_part(s.uri, '/', 3)
left join cited c on s.uri <> '' and c.uri = s.uri and c.cid = s.cid
order by s.place, seen, s.seq, s.uri limit @limit`, pgx.NamedArgs{"task": task.URI, "entry": task.EntryURI, "city": db.city, "limit": maxNodes + 1})
	if err != nil {
		return nil, false, fmt.Errorf("chain of %s: %w", taskURI, err)
	}
	if len(nodes) > maxNodes {
		return nodes[:maxNodes], true, nil
	}
	return nodes, false, nil
}
