package ledger

import "github.com/prometheus/client_golang/prometheus"

// cosignMetrics tell how far the witnesses are.
type cosignMetrics struct {
	answers *prometheus.CounterVec
	size    prometheus.Gauge
	age     prometheus.Gauge
}

func newCosignMetrics(reg prometheus.Registerer) *cosignMetrics {
	return &cosignMetrics{
		answers: shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_ledger_cosignatures_total", Help: "Checkpoints brought to a witness, by what it answered.",
		}, []string{"witness", "outcome"})),
		size: shared(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "citysync_ledger_cosigned_size", Help: "Entries that a quorum of witnesses has cosigned.",
		})),
		age: shared(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "citysync_ledger_quorum_age_seconds", Help: "How long the log has been ahead of what a quorum cosigned.",
		})),
	}
}
