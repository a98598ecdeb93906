package follow

import (
	"sync"
	"time"

	"city-sync.org/citysync/internal/clock"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what a follower does. A nil *Metrics counts nothing.
type Metrics struct {
	events    prometheus.Counter
	snapshots prometheus.Counter
	drops     *prometheus.CounterVec
	read      prometheus.Gauge
	saved     prometheus.Gauge
}

// NewMetrics registers the counters of one host's follower.
func NewMetrics(reg prometheus.Registerer, service, host string) *Metrics {
	labels := prometheus.Labels{"service": service, "host": host}
	m := &Metrics{
		events:    prometheus.NewCounter(prometheus.CounterOpts{Name: "citysync_follow_events_total", Help: "Events read.", ConstLabels: labels}),
		snapshots: prometheus.NewCounter(prometheus.CounterOpts{Name: "citysync_follow_snapshots_total", Help: "Whole repositories saved.", ConstLabels: labels}),
		drops:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "citysync_follow_drops_total", Help: "Events refused, by reason.", ConstLabels: labels}, []string{"reason"}),
		read:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "citysync_follow_read_seq", Help: "Sequence read last.", ConstLabels: labels}),
		saved:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "citysync_follow_saved_seq", Help: "Sequence delivered last.", ConstLabels: labels}),
	}
	reg.MustRegister(m.events, m.snapshots, m.drops, m.read, m.saved)
	return m
}

func (m *Metrics) event(seq int64) {
	if m != nil {
		m.events.Inc()
		m.read.Set(float64(seq))
	}
}

func (m *Metrics) delivered(seq int64) {
	if m != nil {
		m.saved.Set(float64(seq))
	}
}

func (m *Metrics) snapshot() {
	if m != nil {
		m.snapshots.Inc()
	}
}

func (m *Metrics) drop(reason string) {
	if m != nil {
		m.drops.WithLabelValues(reason).Inc()
	}
}

// logLimit lets a few lines a minute through for each reason.
type logLimit struct {
	clock clock.Clock
	mu    sync.Mutex // guards the fields below
	since time.Time
	lines map[string]int
}

const linesPerMinute = 5

func newLogLimit(c clock.Clock) *logLimit { return &logLimit{clock: c, lines: map[string]int{}} }

func (l *logLimit) allow(reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.clock.Now(); now.Sub(l.since) >= time.Minute {
		l.since = now
		clear(l.lines)
	}
	l.lines[reason]++
	return l.lines[reason] <= linesPerMinute
}
