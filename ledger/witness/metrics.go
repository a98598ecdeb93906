package witness

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	audited, cosigned, disputed prometheus.Gauge
	answers                     *prometheus.CounterVec
	failures                    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return registered(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "citysync_witness_" + name, Help: help}))
	}
	return &metrics{
		audited:  gauge("audited_entries", "Entries in the copy, each re-executed."),
		cosigned: gauge("cosigned_entries", "Entries of the newest checkpoint that was cosigned."),
		disputed: gauge("disputed", "1 when the log broke its word and nothing is cosigned any more."),
		answers: registered(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_witness_answers_total", Help: "Checkpoints that were brought, by the status of the answer.",
		}, []string{"status"})),
		failures: registered(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citysync_witness_failures_total", Help: "Looks at the log or at other witnesses that failed, by which.",
		}, []string{"at"})),
	}
}

func registered[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}
