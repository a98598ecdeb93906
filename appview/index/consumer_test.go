package index_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

const library = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"

// everything publishes one example of every indexed record type.
func everything(t *testing.T, a *author) {
	t.Helper()
	for _, h := range index.Handlers {
		rkey, cbor := example(t, h.NSID)
		a.put(repo.Create, h.NSID, rkey, cbor)
	}
}

func TestEveryHandlerMakesItsRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	everything(t, w.author(library))
	for _, h := range index.Handlers {
		assert.Equal(t, 1, w.count("select count(*) from "+h.Table), h.NSID)
	}
	assert.Zero(t, w.count("select count(*) from dropped"))
}

func TestEveryRecordTypeOfTheSchemasIsIndexedOrLeftOutOnPurpose(t *testing.T) {
	t.Parallel()
	indexed := map[string]bool{lexicons.RegistryCredentialType: true} // no query asks for it yet
	for _, h := range index.Handlers {
		indexed[h.NSID] = true
	}
	for _, nsid := range lexicons.Records() {
		assert.True(t, indexed[nsid], nsid)
	}
}

func TestRebuildGivesTheSameState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	everything(t, a)
	rkey, task := example(t, lexicons.WorkTask)
	a.put(repo.Update, lexicons.WorkTask, rkey, edited(t, task, "title", "Another title"))
	rkey, _ = example(t, lexicons.WorkReview)
	a.put(repo.Delete, lexicons.WorkReview, rkey, nil)

	before := w.hash()
	_, err := w.pool.Exec(t.Context(), "update task set title = 'damaged'")
	require.NoError(t, err)
	require.NotEqual(t, before, w.hash(), "the hash sees the projection")
	require.NoError(t, index.Rebuild(t.Context(), w.pool))
	assert.Equal(t, before, w.hash())
}

func TestReplayedCommitChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	rkey, task := example(t, lexicons.WorkTask)
	v := a.commit(repo.Write{Action: repo.Create, Collection: lexicons.WorkTask, RKey: rkey, Record: task})
	a.save(v)
	before, versions := w.hash(), w.count("select count(*) from record_version")
	a.save(v)
	assert.Equal(t, before, w.hash())
	assert.Equal(t, versions, w.count("select count(*) from record_version"))
}

func TestLateOlderWriteDoesNotBringADeletedRecordBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	rkey, task := example(t, lexicons.WorkTask)
	created := a.commit(repo.Write{Action: repo.Create, Collection: lexicons.WorkTask, RKey: rkey, Record: task})
	deleted := a.commit(repo.Write{Action: repo.Delete, Collection: lexicons.WorkTask, RKey: rkey})
	a.save(deleted)
	a.save(created)
	assert.Zero(t, w.count("select count(*) from task"))
	assert.Equal(t, 1, w.count("select count(*) from record_version"), "the version stays for those who cited it")
}

func TestInPlaceEditIsFlaggedAndBothVersionsOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	rkey, task := example(t, lexicons.WorkTask)
	a.put(repo.Create, lexicons.WorkTask, rkey, task)
	a.put(repo.Update, lexicons.WorkTask, rkey, edited(t, task, "creditsPerCompletion", int64(1)))
	assert.Equal(t, 1, w.count("select count(*) from record where edited"))
	assert.Equal(t, 2, w.count("select count(*) from record_version"))
	assert.Equal(t, 1, w.count("select count(*) from task where credits = 1"))
}

func TestInvalidRecordIsKeptOutOfTheTablesAndCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	rkey, task := example(t, lexicons.WorkTask)
	a.put(repo.Create, lexicons.WorkTask, rkey, edited(t, task, "creditsPerCompletion", "forty"))
	assert.Zero(t, w.count("select count(*) from task"))
	assert.Equal(t, 1, w.count("select count from dropped where reason = 'InvalidRecord'"))
	assert.Equal(t, 1, w.count("select count(*) from record where invalid is not null"))
}

func TestSnapshotFindsWhatWasWrittenAndDeletedInAGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	taskKey, task := example(t, lexicons.WorkTask)
	a.put(repo.Create, lexicons.WorkTask, taskKey, task)
	a.commit(repo.Write{Action: repo.Delete, Collection: lexicons.WorkTask, RKey: taskKey}) // never seen
	offerKey, offering := example(t, lexicons.OfferOffering)
	a.commit(repo.Write{Action: repo.Create, Collection: lexicons.OfferOffering, RKey: offerKey, Record: offering}) // never seen

	w.seq++
	require.NoError(t, w.x.Snapshot(t.Context(), host, w.seq, a.did, a.full(), nil))
	assert.Zero(t, w.count("select count(*) from task"))
	assert.Equal(t, 1, w.count("select count(*) from offering"))
	state, err := w.x.Repo(t.Context(), a.did)
	require.NoError(t, err)
	assert.Equal(t, a.state, state)
}

func TestCursorMovesWithTheEventAndNeverBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	require.NoError(t, w.x.Drop(t.Context(), host, 9, a.did, "BadSignature"))
	require.NoError(t, w.x.Identity(t.Context(), host, 7, a.did))
	seq, err := w.x.Cursor(t.Context(), host)
	require.NoError(t, err)
	assert.EqualValues(t, 9, seq)
	assert.Equal(t, 1, w.count("select count from dropped where reason = 'BadSignature'"))
}
