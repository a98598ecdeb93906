package crash_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/crash"
)

var point = regexp.MustCompile(`crash\.Point\(([^)]*)\)`)

// C3
func TestEveryLabelStandsAtOnePlaceAndEveryPointIsListed(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	places := map[string][]string{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Contains(raw, []byte("crash.Point(")) {
			return nil
		}
		for _, m := range point.FindAllSubmatch(raw, -1) {
			label := strings.Trim(string(m[1]), `"`)
			places[label] = append(places[label], path)
		}
		return nil
	})
	require.NoError(t, err)
	for _, label := range crash.Labels() {
		assert.Len(t, places[label], 1, "%s must stand at one place", label)
		delete(places, label)
	}
	assert.Empty(t, places, "points whose label is not listed")
}
