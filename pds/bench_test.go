package pds

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// BenchmarkCreateRecord measures whole requests over loopback HTTP: one client, and eight
// clients on eight repositories.
func BenchmarkCreateRecord(b *testing.B) {
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			bed := newBed(b)
			bed.run()
			users := make([]*user, clients)
			for i := range users {
				users[i] = bed.account(fmt.Sprintf("user%d", i))
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var g errgroup.Group
			for _, u := range users {
				g.Go(func() error {
					for left.Add(-1) >= 0 {
						if a := u.create(note, "", m{"text": "a note of ordinary length, as people write them"}); a.Status != 200 {
							return fmt.Errorf("%d %s", a.Status, a.Raw)
						}
					}
					return nil
				})
			}
			require.NoError(b, g.Wait())
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkApplyWrites measures commits of two hundred records.
func BenchmarkApplyWrites(b *testing.B) {
	bed := newBed(b)
	u := bed.account("user")
	var writes []m
	for range maxWrites {
		writes = append(writes, m{"$type": applyWritesNSID + "#create", "collection": note, "value": m{"text": "a note"}})
	}
	b.ResetTimer()
	for range b.N {
		u.ok(u.apply(writes...))
	}
	b.ReportMetric(float64(b.N*maxWrites)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkGetRepo exports a repository of five thousand records.
func BenchmarkGetRepo(b *testing.B) {
	bed := newBed(b)
	u := bed.account("user")
	for i := range 25 {
		var writes []m
		for j := range maxWrites {
			writes = append(writes, m{"$type": applyWritesNSID + "#create", "collection": note, "value": m{"n": i*maxWrites + j}})
		}
		u.ok(u.apply(writes...))
	}
	b.ResetTimer()
	for range b.N {
		u.ok(u.get("", "com.atproto.sync.getRepo", "did", u.DID.String()))
	}
}
