package ledger

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/rules"
)

// metrics are what the ledger counts while it works; gauges reads the rest when somebody looks.
type metrics struct {
	registerer prometheus.Registerer
	dropped    *prometheus.CounterVec
	refused    *prometheus.CounterVec
	denied     *prometheus.CounterVec
	alarms     *prometheus.CounterVec
	receipts   prometheus.Counter
	batch      prometheus.Histogram
	commit     prometheus.Histogram
	digest     prometheus.Gauge
	published  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		registerer: reg,
		dropped: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_ledger_commits_dropped_total", Help: "Commits that were not what they said, by reason.",
		}, []string{"reason"})),
		refused: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_ledger_records_refused_total", Help: "Records that do not count, by the name of the refusal.",
		}, []string{"name"})),
		denied: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_ledger_calls_refused_total", Help: "Calls that the sequencer refused, by the name of the refusal.",
		}, []string{"name"})),
		alarms: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_ledger_alarms_total", Help: "Things that the rules had made impossible.",
		}, []string{"what"})),
		receipts: shared(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "citysync_ledger_receipts_published_total", Help: "Receipts written into the ledger's repository.",
		})),
		batch: shared(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "citysync_ledger_batch_commands", Help: "Commands that shared one transaction.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, maxBatch},
		})),
		commit: shared(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "citysync_ledger_commit_seconds", Help: "Time from a batch's first statement to its answers.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		})),
		digest: shared(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "citysync_ledger_digest_timestamp_seconds", Help: "Day of the newest digest of the state in the log.",
		})),
		published: shared(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "citysync_ledger_publisher_ok_timestamp_seconds", Help: "When the ledger's repository last had all that was due.",
		})),
	}
}

// refusal counts a call that was answered by a refusal. The names are ours: strangers add no series.
func (m *metrics) refusal(err error) {
	var refusal *rules.Refusal
	var named *xrpc.Error
	switch {
	case errors.As(err, &refusal):
		m.denied.WithLabelValues(refusal.Name).Inc()
	case errors.As(err, &named):
		m.denied.WithLabelValues(named.Name).Inc()
	}
}

// shared gives the collector that another ledger of the process registered before, if one did.
func shared[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}
