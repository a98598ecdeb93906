package query_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/pg/pgtest"
)

// town is an index that has read the whole story of logtest.
func town(t *testing.T, more ...func(*logtest.Town)) (*query.DB, *logtest.Town, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.Schema(t, index.Migrations())
	told := logtest.Tell(logtest.New(t))
	for _, fn := range more {
		fn(told)
	}
	told.Follow(t, pool)
	return query.New(pool, logtest.City), told, pool
}

func TestTotalsCountWhatWasHeldReversedAndExpired(t *testing.T) {
	t.Parallel()
	db, told, _ := town(t)
	got, err := db.Totals(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int64{logtest.Reserved, logtest.Minted, logtest.Minted, logtest.Burned, logtest.Held, logtest.Expired, logtest.Supply},
		[]int64{got.Reserved, got.Minted, got.Votes, got.Burned, got.Held, got.Expired, got.Supply})
	require.Len(t, got.Issuers, 1)
	assert.EqualValues(t, logtest.Minted, got.Issuers[0].Minted, "a reversed mint is its issuer's")
	assert.Equal(t, told.Seq["epochOpen"], got.OpenSeq)
	assert.EqualValues(t, told.Size(), got.LogSize)
}

func TestMonthsAreThoseThatTheLogClosedAndTheOneThatIsOpen(t *testing.T) {
	t.Parallel()
	db, told, _ := town(t)
	d, err := db.EpochDetail(t.Context(), logtest.Book, logtest.Epoch)
	require.NoError(t, err)
	require.Len(t, d.Months, 2)
	first, open := d.Months[0], d.Months[1]
	assert.Equal(t, told.Seq["dormant"], first.Seq)
	assert.EqualValues(t, []int64{logtest.Minted, logtest.Burned, 9, 80, 9}, []int64{first.Issued, first.Burned, first.Quiet, first.Active, first.Dormant})
	assert.EqualValues(t, -1, open.Seq)
	assert.EqualValues(t, []int64{0, 0, logtest.Expired}, []int64{open.Issued, open.Burned, open.Expired}, "what happened since the closing")
	assert.Nil(t, d.Close)

	closed, told, _ := town(t, (*logtest.Town).Close)
	d, err = closed.EpochDetail(t.Context(), logtest.Book, logtest.Epoch)
	require.NoError(t, err)
	require.Len(t, d.Months, 3)
	assert.Equal(t, told.Seq["epochClose"], d.CloseSeq)
	epochs, err := closed.Epochs(t.Context())
	require.NoError(t, err)
	require.Len(t, epochs, 1)
	assert.True(t, epochs[0].Closed)
}

func TestPausesStandUntilTheirTimeOrTheirEnd(t *testing.T) {
	t.Parallel()
	db, _, _ := town(t)
	at := time.Date(2027, 1, 13, 0, 0, 0, 0, time.UTC)
	city, err := db.CityPauses(t.Context(), at)
	require.NoError(t, err)
	require.Len(t, city, 1)
	assert.Equal(t, "A key was lost.", city[0].Reason)
	of, err := db.PausesOf(t.Context(), at, logtest.Task, logtest.Offering)
	require.NoError(t, err)
	assert.Equal(t, "The hall is closed for repairs.", of[logtest.Offering].Reason)
	assert.NotContains(t, of, logtest.Task, "it was resumed")

	city, err = db.CityPauses(t.Context(), time.Date(2027, 1, 20, 8, 0, 0, 0, time.UTC))
	require.NoError(t, err)
	assert.Empty(t, city, "its time is over")
}

func TestEntryIsCosignedOnceAQuorumSignedACheckpointThatHoldsIt(t *testing.T) {
	t.Parallel()
	db, _, _ := town(t)
	f, err := db.Finality(t.Context())
	require.NoError(t, err)
	assert.False(t, f.Policy)
	assert.Nil(t, f.Cosigned)
	assert.Equal(t, "committed", f.Entry(0))
	assert.Equal(t, "unknown", f.Entry(f.Size))

	var signed int64
	db, _, _ = town(t, func(l *logtest.Town) {
		l.BindWitnesses(2, logtest.Library, logtest.Museum, "did:plc:wwwwwwwwwwwwwwwwwwwwwwww")
		l.Cosign(2)
		signed = int64(l.Size())
		l.Close()
	})
	f, err = db.Finality(t.Context())
	require.NoError(t, err)
	require.NotNil(t, f.Cosigned)
	assert.Equal(t, signed, f.Cosigned.Size)
	assert.EqualValues(t, 3, f.Cosigned.Members)
	assert.Equal(t, logtest.At, f.Cosigned.At.UTC())
	require.Len(t, f.Cosigned.Witnesses, 2)
	assert.Equal(t, []string{logtest.Library.String(), logtest.Museum.String()}, []string{f.Cosigned.Witnesses[0].Org, f.Cosigned.Witnesses[1].Org})
	assert.Equal(t, "cosigned", f.Entry(signed-1))
	assert.Equal(t, "committed", f.Entry(signed))
}
