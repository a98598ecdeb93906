package index_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// All tests of this package write under the AppView's role; here is what it may not do.
func TestAppViewsRoleCannotChangeItsCopyOfTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, table := range []string{"log_entry", "log_cause", "log_node"} {
		for _, sql := range []string{"delete from " + table, "truncate " + table, "drop table " + table, "alter table " + table + " add column x int"} {
			_, err := w.role.Exec(t.Context(), sql)
			require.Error(t, err, sql)
		}
		_, err := w.role.Exec(t.Context(), "delete from "+table)
		require.ErrorContains(t, err, "permission denied")
	}
}
