package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// figure is one metric without labels.
func (w *world) figure(name string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	require.NoError(w.t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	require.Fail(w.t, "no such metric", name)
	return 0
}

func TestMetricsSayHowTheLogStands(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	f := c.published()
	assert.InDelta(t, c.l.seq.log.size(), c.figure("citysync_ledger_entries"), 0)
	assert.InDelta(t, c.l.seq.term, c.figure("citysync_ledger_term"), 0)
	assert.InDelta(t, c.clock.Now().Unix(), c.figure("citysync_ledger_checkpoint_timestamp_seconds"), 1)
	assert.InDelta(t, maxQueue, c.figure("citysync_ledger_queue_limit_commands"), 0)
	assert.InDelta(t, 1, c.figure("citysync_ledger_database_up"), 0)
	assert.NotZero(t, c.figure("citysync_ledger_database_bytes"))
	assert.InDelta(t, time.Since(c.clock.Now()).Seconds(), c.figure("citysync_ledger_clock_skew_seconds"), 60, "the tests' clock stands in another year")

	assert.InDelta(t, c.l.seq.log.size(), c.figure("citysync_ledger_published_entries"), 0)
	assert.Zero(t, c.figure("citysync_ledger_receipts_due"))
	require.Equal(t, "redeemed", c.scan(c.till, c.code(ana, 1, "k", nil).str("code"), "confirm", 0).str("status"))
	assert.InDelta(t, 1, c.figure("citysync_ledger_receipts_due"), 0)
	c.publish(f)
	assert.Zero(t, c.figure("citysync_ledger_receipts_due"))

	at := c.clock.Now().Add(-time.Hour).Truncate(time.Second)
	require.NoError(t, NoteBackup(c.ctx, c.role(), &BackupHeader{At: at}))
	assert.InDelta(t, at.Unix(), c.figure("citysync_ledger_backup_timestamp_seconds"), 0)
}

func TestMetricsOutliveALedgerThatStartsAgainInTheProcess(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	first := c.figure("citysync_ledger_term")
	again := newGauges(&Ledger{seq: c.l.seq, store: c.l.store, clock: c.clock})
	require.NoError(t, again.register(c.reg))
	assert.InDelta(t, first, c.figure("citysync_ledger_term"), 0)
}
