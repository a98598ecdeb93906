package ledger

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	registerer prometheus.Registerer
	dropped    *prometheus.CounterVec
	refused    *prometheus.CounterVec
	alarms     *prometheus.CounterVec
	receipts   prometheus.Counter
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
		alarms: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_ledger_alarms_total", Help: "Things that the rules had made impossible.",
		}, []string{"what"})),
		receipts: shared(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "citysync_ledger_receipts_published_total", Help: "Receipts written into the ledger's repository.",
		})),
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
