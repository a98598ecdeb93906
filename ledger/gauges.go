package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/ledger/entry"
)

// scrapeLimit bounds what one look at the metrics may wait for the database.
const scrapeLimit = 2 * time.Second

// countAtMost bounds what is counted of what waits: more is as bad.
const countAtMost = 100_000

// gauges are read when somebody looks at the metrics: they are states, and a copy of a state can be wrong.
type gauges struct {
	l                                                          *Ledger
	entries, term, queue, queueMax, signed                     *prometheus.Desc
	database, skew, bytes, publishedSize, receiptsDue, backups *prometheus.Desc
}

func newGauges(l *Ledger) *gauges {
	d := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("citysync_ledger_"+name, help, nil, nil)
	}
	return &gauges{
		l:             l,
		entries:       d("entries", "Entries of the log."),
		term:          d("term", "The writer's term; it grows at each start."),
		queue:         d("queue_commands", "Commands that wait for the sequencer."),
		queueMax:      d("queue_limit_commands", "Commands that may wait before callers are told to come back."),
		signed:        d("checkpoint_timestamp_seconds", "When the newest checkpoint was signed."),
		database:      d("database_up", "1 if the database answered this look."),
		skew:          d("clock_skew_seconds", "The database's clock less this process's."),
		bytes:         d("database_bytes", "Size of the database on its disk."),
		publishedSize: d("published_entries", "Size of the newest checkpoint in the ledger's repository."),
		receiptsDue:   d("receipts_due", "Receipts that are not in the ledger's repository yet."),
		backups:       d("backup_timestamp_seconds", "When the newest finished backup was made."),
	}
}

// register makes them readable; a ledger of the same process that ended before leaves its place.
func (g *gauges) register(reg prometheus.Registerer) error {
	err := reg.Register(g)
	var before prometheus.AlreadyRegisteredError
	if errors.As(err, &before) {
		reg.Unregister(before.ExistingCollector)
		err = reg.Register(g)
	}
	if err != nil {
		return fmt.Errorf("ledger: metrics: %w", err)
	}
	return nil
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		g.entries, g.term, g.queue, g.queueMax, g.signed, g.database, g.skew, g.bytes, g.publishedSize, g.receiptsDue, g.backups,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	s := g.l.seq
	put(g.entries, float64(s.log.size()))
	put(g.term, float64(s.term))
	put(g.queue, float64(len(s.queue)))
	put(g.queueMax, float64(cap(s.queue)))
	if cp := s.latest.Load(); cp != nil {
		put(g.signed, seconds(cp.At))
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
	defer cancel()
	kept, err := g.l.store.kept(ctx)
	if err != nil {
		put(g.database, 0)
		return
	}
	put(g.database, 1)
	put(g.skew, kept.Now.Sub(g.l.clock.Now()).Seconds())
	put(g.bytes, float64(kept.Bytes))
	put(g.publishedSize, float64(kept.Published))
	put(g.receiptsDue, float64(kept.Due))
	if at, err := time.Parse(time.RFC3339, kept.Backup); err == nil {
		put(g.backups, seconds(at))
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// keptFigures are the figures that only the database has.
type keptFigures struct {
	Now       time.Time
	Bytes     int64
	Published int64
	Due       int64
	Backup    string
}

func (s *store) kept(ctx context.Context) (*keptFigures, error) {
	const look = `
		select clock_timestamp(), pg_database_size(current_database()), coalesce((select max(size) from published_checkpoint), 0),
			(select count(*) from (select from entry where kind = any($1) and seq > coalesce((select max(seq) from published_receipt), -1) limit $3) as due),
			coalesce((select value from meta where key = $2), '')`
	var k keptFigures
	err := s.pool.QueryRow(ctx, look, receiptKinds, metaBackup, countAtMost).Scan(&k.Now, &k.Bytes, &k.Published, &k.Due, &k.Backup)
	if err != nil {
		return nil, fmt.Errorf("figures of the database: %w", err)
	}
	return &k, nil
}

// digested notes the day of the newest digest.
func (m *metrics) digested(e *entry.Entry) {
	if at, err := time.Parse(time.DateOnly, e.Day); err == nil {
		m.digest.Set(seconds(at))
	}
}
