package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// A row is one figure beside its peer: medians of what the rounds gave.
type row struct {
	name, unit, peer string
	figure, beside   []float64
}

// add notes a round of a row, and begins the row with its first round.
func (b *bench) add(name, unit string, figure float64, peer string, beside float64) {
	i := slices.IndexFunc(b.rows, func(r row) bool { return r.name == name })
	if i < 0 {
		i = len(b.rows)
		b.rows = append(b.rows, row{name: name, unit: unit, peer: peer})
	}
	r := &b.rows[i]
	r.figure, r.beside = append(r.figure, figure), append(r.beside, beside)
}

func printTable(out io.Writer, rows []row) error {
	lines := [][]string{{"what", "figure", "unit", "beside", "figure", "ratio"}}
	for _, r := range rows {
		f, p := median(r.figure), median(r.beside)
		lines = append(lines, []string{r.name, number(f), r.unit, r.peer, number(p), fmt.Sprintf("%.2f", f/p)})
	}
	var wide [6]int
	for _, l := range lines {
		for i, cell := range l {
			wide[i] = max(wide[i], len(cell))
		}
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(out, "%-*s  %*s %-*s  %-*s  %*s  %*s\n",
			wide[0], l[0], wide[1], l[1], wide[2], l[2], wide[3], l[3], wide[4], l[4], wide[5], l[5]); err != nil {
			return err
		}
	}
	return nil
}

func number(f float64) string {
	if f < 100 {
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile is the value that a share q of the values does not exceed.
func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// perSecond lets so many callers do one thing after the other for the span.
func perSecond(callers int, one func(caller int) error) (float64, error) {
	var done atomic.Int64
	var g errgroup.Group
	start := time.Now()
	for caller := range callers {
		g.Go(func() error {
			for time.Since(start) < span {
				if err := one(caller); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), err
}

// machine says where this was measured.
func (b *bench) machine(ctx context.Context) (string, error) {
	pool, err := b.open(ctx, "public")
	if err != nil {
		return "", err
	}
	defer pool.Close()
	var version, fsync, commit string
	const ask = `select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`
	if err := pool.QueryRow(ctx, ask).Scan(&version, &fsync, &commit); err != nil {
		return "", err
	}
	s := fmt.Sprintf("%d cores, %s/%s, %s, PostgreSQL %s, fsync %s, synchronous_commit %s",
		runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH, runtime.Version(), version, fsync, commit)
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil { // says how much else the machine does
		if load, _, ok := strings.Cut(string(raw), " "); ok {
			s += ", load before " + load
		}
	}
	return s, nil
}
