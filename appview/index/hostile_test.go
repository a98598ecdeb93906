package index_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// What a stranger signs may be refused or shown, but an error of the sink ends the AppView: there is no record that makes one.
func TestNoRecordOfAStrangerStopsTheIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	for _, h := range index.Handlers {
		rkey, cbor := example(t, h.NSID)
		record, err := lexicons.DecodeCBOR(cbor)
		require.NoError(t, err)
		action := repo.Create
		for _, field := range slices.Sorted(maps.Keys(record)) {
			for _, bad := range hostile(record[field]) {
				a.put(action, h.NSID, rkey, edited(t, cbor, field, bad))
				action = repo.Update
			}
		}
	}
	// A text with NUL follows its schema: it is shown, without the NUL.
	rkey, task := example(t, lexicons.WorkTask)
	a.put(repo.Update, lexicons.WorkTask, rkey, edited(t, task, "title", "a\x00b"))
	assert.Equal(t, 1, w.count("select count(*) from task where title = 'a' || chr(65533) || 'b'"))
}

// hostile gives values of the same kind that a schema may let pass, or not.
func hostile(v any) []any {
	switch v := v.(type) {
	case string:
		return []any{"", "\x00", v + "\x00", strings.Repeat("x", 70_000), "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "at://\x00"}
	case int64:
		return []any{int64(math.MaxInt64), int64(math.MinInt64), int64(math.MaxInt32) + 1, int64(0), int64(-1)}
	case []any:
		return []any{[]any{}, slices.Repeat(v, 3), []any{"\x00"}}
	case map[string]any:
		return []any{map[string]any{}, map[string]any{"$type": "org.example.unknown"}}
	case bool:
		return []any{!v}
	}
	return []any{nil, fmt.Sprint(v)}
}

func TestHiddenAccountIsNotShownAndComesBackWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, other := w.author(library), w.author("did:plc:bbbbbbbbbbbbbbbbbbbbbbbb")
	everything(t, a)
	rkey, task := example(t, lexicons.WorkTask)
	other.put(repo.Create, lexicons.WorkTask, rkey, task)
	before := w.hash()
	for _, status := range []string{"deactivated", "suspended", "takendown", "", "some word of the host's own that is far too long to keep whole"} {
		w.account(a, false, status)
		assert.Zero(t, w.count("select count(*) from offering"), status)
		assert.Equal(t, 1, w.count("select count(*) from task"), "the other account's: %s", status)
		require.NotEqual(t, before, w.hash(), status)
	}
	assert.LessOrEqual(t, w.count("select max(length(status)) from repo"), 40)

	// What it writes meanwhile is kept and shown later; a rebuild does not show it either.
	a.put(repo.Update, lexicons.WorkTask, rkey, edited(t, task, "title", "While away"))
	assert.Equal(t, 1, w.count("select count(*) from task"))
	require.NoError(t, index.Rebuild(t.Context(), w.pool))
	assert.Equal(t, 1, w.count("select count(*) from task"))

	w.account(a, true, "")
	assert.Equal(t, 1, w.count("select count(*) from task where title = 'While away'"))
	a.put(repo.Update, lexicons.WorkTask, rkey, task)
	assert.Equal(t, before, w.hash())
}

func TestDeletedAccountLosesItsContentAndLeavesItsNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	everything(t, a)
	rkey, task := example(t, lexicons.WorkTask)
	versions := w.count("select count(*) from record_version")
	before := w.hash()

	w.account(a, false, "deleted")
	assert.Equal(t, versions, w.count("select count(*) from record_version where cbor is null and cid <> '' and rev <> ''"))
	assert.Zero(t, w.count("select count(*) from record where cbor is not null or cid is not null"))
	w.account(a, false, "deleted") // said twice

	// A late older write brings nothing back; the account itself can.
	w.account(a, true, "")
	assert.Zero(t, w.count("select count(*) from task"))
	a.put(repo.Update, lexicons.WorkTask, rkey, edited(t, task, "title", "Back"))
	assert.Equal(t, 1, w.count("select count(*) from task"))
	a.put(repo.Update, lexicons.WorkTask, rkey, task)
	w.seq++
	a.commit() // the snapshot is a newer one
	require.NoError(t, w.x.Snapshot(t.Context(), host, w.seq, a.did, a.full(), nil))
	assert.Equal(t, before, w.hash(), "an account that comes back is read whole")
	assert.Zero(t, w.count("select count(*) from record_version where cbor is null"))
}

func TestRepositoryThatIsServedAgainIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	everything(t, a)
	before := w.hash()
	w.account(a, false, "deactivated")
	w.seq++
	a.commit()
	require.NoError(t, w.x.Snapshot(t.Context(), host, w.seq, a.did, a.full(), nil))
	assert.Equal(t, before, w.hash())
}

func TestWordOfAnUnknownAccountLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.x.Account(t.Context(), host, 3, "did:plc:zzzzzzzzzzzzzzzzzzzzzzzz", false, "deleted"))
	assert.Zero(t, w.count("select count(*) from repo"))
	seq, err := w.x.Cursor(t.Context(), host)
	require.NoError(t, err)
	assert.EqualValues(t, 3, seq)
}

func TestSecondCommitUnderOneRevIsCountedAndChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	rkey, task := example(t, lexicons.WorkTask)
	twin := a.fork()
	v := a.commit(repo.Write{Action: repo.Create, Collection: lexicons.WorkTask, RKey: rkey, Record: task})
	twin.rev = v.Rev
	other := twin.commit(repo.Write{Action: repo.Create, Collection: lexicons.WorkTask, RKey: rkey, Record: edited(t, task, "title", "Another")})
	require.NotEqual(t, v.Commit, other.Commit)
	a.save(v)
	before := w.hash()
	a.save(other)
	assert.Equal(t, before, w.hash())
	assert.Equal(t, 1, w.count("select count from dropped where reason = 'Equivocation'"))
	a.save(v) // the first one again is none
	assert.Equal(t, 1, w.count("select count from dropped where reason = 'Equivocation'"))
}

func TestOlderCommitDoesNotMoveTheRepositoryBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	rkey, task := example(t, lexicons.WorkTask)
	first := a.commit(repo.Write{Action: repo.Create, Collection: lexicons.WorkTask, RKey: rkey, Record: task})
	second := a.commit()
	a.save(second)
	a.save(first)
	state, err := w.x.Repo(t.Context(), a.did)
	require.NoError(t, err)
	assert.Equal(t, second.Rev, state.Rev)
}

func TestHashDependsOnWhatIsThereAndNotOnHowItWasSeen(t *testing.T) {
	t.Parallel()
	const other, gone = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb", "did:plc:dddddddddddddddddddddddd"
	rkey, task := example(t, lexicons.WorkTask)
	offerKey, offering := example(t, lexicons.OfferOffering)

	w := newWorld(t)
	a, b, c := w.author(library), w.author(other), w.author(gone)
	a.put(repo.Create, lexicons.WorkTask, rkey, edited(t, task, "title", "First"))
	b.put(repo.Create, lexicons.OfferOffering, offerKey, offering)
	a.put(repo.Update, lexicons.WorkTask, rkey, task)
	b.put(repo.Create, lexicons.WorkTask, rkey, task)
	b.put(repo.Delete, lexicons.WorkTask, rkey, nil)
	everything(t, c)
	w.account(c, false, "deactivated")
	d := w.author("did:plc:eeeeeeeeeeeeeeeeeeeeeeee")
	everything(t, d)
	w.account(d, false, "deleted")

	later := newWorld(t)
	later.clock.Advance(1000 * time.Hour)
	y, x := later.author(other), later.author(library)
	y.put(repo.Create, lexicons.OfferOffering, offerKey, offering)
	y.commit()
	later.seq += 100
	require.NoError(t, later.x.Snapshot(t.Context(), "http://elsewhere.test", 7, y.did, y.full(), nil))
	x.put(repo.Create, lexicons.WorkTask, rkey, task)
	require.NoError(t, later.x.Drop(t.Context(), host, 900, x.did, "BadSignature"))
	assert.Equal(t, w.hash(), later.hash())

	x.put(repo.Update, lexicons.WorkTask, rkey, edited(t, task, "title", "Second"))
	assert.NotEqual(t, w.hash(), later.hash())
}

// A ledger is a stranger too: its texts are stored, and its reader goes on.
func TestLogWithBytesThatNoTextHasIsCopied(t *testing.T) {
	t.Parallel()
	w, p := newWorld(t), newPublisher(t)
	p.grow(1, func(p *publisher) {
		ref := entry.Ref{URI: "at://\x00", CID: "c\x00"}
		e := entry.Entry{
			Seq: 1, Kind: entry.KindMint, Day: "2027-01-12", Epoch: "e\x00", Book: "b\x00", Org: "did:\x00", Amount: 1,
			Causes: []entry.Cause{{URI: ref.URI, CID: ref.CID, Rev: "\x00"}}, Params: &ref, Cap: &entry.CapState{}, Nullifier: make([]byte, 32),
			Commitment: &entry.Commitment{Value: make([]byte, 32), Padded: 8}, Mint: &entry.Mint{Task: ref, First: "at://\x00"},
		}
		leaf, err := e.Encode()
		require.NoError(t, err)
		p.leaves = append(p.leaves, leaf)
		require.NoError(t, p.tree.Append(leaf))
		p.served = 2
	})
	w.follow(p)
	w.eventually(2)
	p.grow(1)
	w.eventually(3)
	assert.Equal(t, 1, w.count("select count(*) from log_entry where book = 'b' || chr(65533)"))
}

func TestDeletedPersonLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	everything(t, w.author(library))
	before := w.hash()
	person := w.author("did:plc:personpersonpersonpersonp"[:32])
	rkey, claim := example(t, lexicons.WorkClaim)
	person.put(repo.Create, lexicons.WorkClaim, rkey, claim)
	require.NotEqual(t, before, w.hash())
	w.account(person, false, "deleted")
	for _, table := range []string{"repo", "record", "record_version", "claim"} {
		assert.Zero(t, w.count("select count(*) from "+table+" where did = '"+person.did.String()+"'"), table)
	}
	assert.Equal(t, before, w.hash())
}
