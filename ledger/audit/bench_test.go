package audit_test

import (
	"testing"

	"city-sync.org/citysync/ledger/audit"
)

// BenchmarkReplay is what one entry of a lived log costs anyone, and a validator that opens it.
func BenchmarkReplay(b *testing.B) {
	y := live(b)
	for name, sealed := range map[string]bool{"anyone": false, "validator": true} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				a := audit.New(origin)
				for i, leaf := range y.Leaves {
					if sealed {
						_ = a.AddSealed(int64(i), leaf, y.Openings[int64(i)], false)
					} else {
						_ = a.Add(int64(i), leaf)
					}
				}
				n += len(y.Leaves)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
