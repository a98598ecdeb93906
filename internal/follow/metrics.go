package follow

import (
	"errors"
	"sync"
	"time"

	"city-sync.org/citysync/internal/clock"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what a follower does. Followers that share a registry share
// the collectors and differ by their host; a nil *metrics counts nothing.
type metrics struct {
	events    prometheus.Counter
	snapshots prometheus.Counter
	drops     *prometheus.CounterVec
	host      string
	read      prometheus.Gauge
	saved     prometheus.Gauge
	up        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, host string) *metrics {
	if reg == nil {
		return nil
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"host"}, labels...)))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return shared(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"host"})).WithLabelValues(host)
	}
	return &metrics{
		events:    counter("citysync_follow_events_total", "Events read.").WithLabelValues(host),
		snapshots: counter("citysync_follow_snapshots_total", "Whole repositories saved.").WithLabelValues(host),
		drops:     counter("citysync_follow_drops_total", "Events refused, by reason.", "reason"),
		host:      host,
		read:      gauge("citysync_follow_read_seq", "Sequence read last."),
		saved:     gauge("citysync_follow_saved_seq", "Sequence delivered last."),
		up:        gauge("citysync_follow_connected", "1 while the host's stream is read."),
	}
}

// shared registers a collector, or gives the equal one registered before. One
// that clashes with a foreign collector stays unregistered: counting must not
// stop a service.
func shared[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var known prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &known) {
		if same, ok := known.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}

func (m *metrics) event(seq int64) {
	if m != nil {
		m.events.Inc()
		m.read.Set(float64(seq))
	}
}

func (m *metrics) delivered(seq int64) {
	if m != nil {
		m.saved.Set(float64(seq))
	}
}

func (m *metrics) connected(up float64) {
	if m != nil {
		m.up.Set(up)
	}
}

func (m *metrics) snapshot() {
	if m != nil {
		m.snapshots.Inc()
	}
}

func (m *metrics) drop(reason string) {
	if m != nil {
		m.drops.WithLabelValues(m.host, reason).Inc()
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
