package rules_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/rules"
)

func FuzzParseClock(f *testing.F) {
	for _, s := range []string{"00:00", "24:00", "09:60", "9:00", "aa:bb", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := rules.ParseClock(s); err == nil {
			require.Equal(t, s, fmt.Sprintf("%02d:%02d", m/60, m%60))
		}
	})
}
