package xrpc

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts by method, never by caller; an unknown NSID counts as "other", so strangers add no series.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		return nil
	}
	return &metrics{
		requests: registered(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "xrpc_requests_total", Help: "Requests answered, by method and status.",
		}, []string{"method", "status"})),
		duration: registered(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "xrpc_request_seconds", Help: "Time from request to answer, by method.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method"})),
	}
}

// registered shares a collector between services of one process that use one registry.
func registered[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	err := reg.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}

func (m *metrics) start(method string) func(status int) {
	if m == nil {
		return func(int) {}
	}
	begin := now()
	return func(status int) {
		m.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
		m.duration.WithLabelValues(method).Observe(now().Sub(begin).Seconds())
	}
}
