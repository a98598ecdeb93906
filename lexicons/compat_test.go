package lexicons

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testdata/published holds the schemas as they were last published. A reader
// or a writer that follows them must go on working.

func TestNothingPublishedIsBroken(t *testing.T) {
	t.Parallel()
	now := files(t, Schemas, "org")
	for nsid, before := range files(t, os.DirFS("testdata/published"), "org") {
		after, ok := now[nsid]
		if !assert.True(t, ok, "%s was removed", nsid) {
			continue
		}
		assert.Empty(t, breaking(t, before, after), "%s: write a new schema instead", nsid)
	}
}

func TestEachBreakingChangeIsNoticed(t *testing.T) {
	t.Parallel()
	const before = `{"id":"org.city-sync.a.thing","defs":{
		"main":{"type":"record","key":"tid","record":{"type":"object","required":["a"],"properties":{
			"a":{"type":"string","maxLength":10,"knownValues":["x"]},"n":{"type":"integer","minimum":0,"maximum":9},
			"l":{"type":"array","maxLength":5,"items":{"type":"ref","ref":"#part"}},"u":{"type":"union","refs":["#part"]},
			"b":{"type":"blob","accept":["image/png"],"maxSize":10},"d":{"type":"string","format":"did"}}}},
		"part":{"type":"object","properties":{"x":{"type":"boolean"}}}}}`
	swap := func(from, to string) string {
		require.Contains(t, before, from)
		return strings.Replace(before, from, to, 1)
	}
	for name, after := range map[string]string{
		"field removed":       swap(`,"d":{"type":"string","format":"did"}`, ``),
		"field retyped":       swap(`{"type":"boolean"}`, `{"type":"integer"}`),
		"definition removed":  swap(`"part":{`, `"piece":{`),
		"new required field":  swap(`"required":["a"]`, `"required":["a","n"]`),
		"required dropped":    swap(`"required":["a"]`, `"required":[]`),
		"string shortened":    swap(`"maxLength":10`, `"maxLength":9`),
		"string limited":      swap(`"format":"did"`, `"format":"did","minLength":2`),
		"range raised":        swap(`"minimum":0`, `"minimum":1`),
		"range lowered":       swap(`"maximum":9`, `"maximum":8`),
		"array shortened":     swap(`"maxLength":5`, `"maxLength":4`),
		"other format":        swap(`"format":"did"`, `"format":"handle"`),
		"other reference":     swap(`"ref":"#part"`, `"ref":"#other"`),
		"union variant gone":  swap(`"refs":["#part"]`, `"refs":[]`),
		"union closed":        swap(`"refs":["#part"]`, `"refs":["#part"],"closed":true`),
		"blob type gone":      swap(`"accept":["image/png"]`, `"accept":["image/webp"]`),
		"blob made smaller":   swap(`"maxSize":10`, `"maxSize":9`),
		"other key":           swap(`"key":"tid"`, `"key":"any"`),
		"known value removed": swap(`"knownValues":["x"]`, `"knownValues":["y"]`),
	} {
		assert.NotEmpty(t, breaking(t, []byte(before), []byte(after)), name)
	}
	for name, after := range map[string]string{
		"nothing":               before,
		"new optional field":    swap(`"n":{`, `"m":{"type":"integer"},"n":{`),
		"new known value":       swap(`"knownValues":["x"]`, `"knownValues":["x","y"]`),
		"new variant":           swap(`"refs":["#part"]`, `"refs":["#part","#new"]`),
		"longer string":         swap(`"maxLength":10`, `"maxLength":11`),
		"limit dropped":         swap(`,"maximum":9`, ``),
		"one more kind of file": swap(`["image/png"]`, `["image/png","image/webp"]`),
		"better words":          swap(`"type":"boolean"`, `"type":"boolean","description":"d"`),
	} {
		assert.Empty(t, breaking(t, []byte(before), []byte(after)), name)
	}
}

// breaking lists what a follower of before would trip over in after.
func breaking(t testing.TB, before, after []byte) []string {
	t.Helper()
	var b, a struct {
		Defs map[string]any `json:"defs"`
	}
	require.NoError(t, json.Unmarshal(before, &b))
	require.NoError(t, json.Unmarshal(after, &a))
	var out []string
	brokenMap("", b.Defs, a.Defs, func(at, what string) { out = append(out, at+": "+what) })
	return out
}

// brokenMap: nothing that had a name may lose it; what is new is welcome.
func brokenMap(at string, before, after map[string]any, say func(at, what string)) {
	for name, b := range before {
		a, ok := after[name]
		if !ok {
			say(at+"/"+name, "removed")
			continue
		}
		bm, okB := b.(map[string]any)
		am, okA := a.(map[string]any)
		if okB && okA {
			broken(at+"/"+name, bm, am, say)
		}
	}
}

func broken(at string, before, after map[string]any, say func(at, what string)) {
	for _, k := range []string{"type", "key", "format", "ref", "closed", "const", "encoding", "nullable"} {
		if !reflect.DeepEqual(before[k], after[k]) {
			say(at, fmt.Sprintf("%s changed: %v to %v", k, before[k], after[k]))
		}
	}
	if !reflect.DeepEqual(sorted(before["required"]), sorted(after["required"])) {
		say(at, "required fields changed")
	}
	for _, k := range []string{"maxLength", "maxGraphemes", "maximum", "maxSize"} {
		if tightened(before[k], after[k], func(b, a float64) bool { return a < b }) {
			say(at, k+" tightened")
		}
	}
	for _, k := range []string{"minLength", "minGraphemes", "minimum"} {
		if tightened(before[k], after[k], func(b, a float64) bool { return a > b }) {
			say(at, k+" tightened")
		}
	}
	for _, k := range []string{"refs", "accept", "knownValues", "enum"} {
		for _, v := range sorted(before[k]) {
			if !slices.Contains(sorted(after[k]), v) {
				say(at, k+" lost "+v)
			}
		}
	}
	errorsLost(at, before["errors"], after["errors"], say)
	for _, k := range []string{"record", "items", "parameters", "input", "output", "schema"} {
		b, okB := before[k].(map[string]any)
		a, okA := after[k].(map[string]any)
		switch {
		case okB && okA:
			broken(at+"/"+k, b, a, say)
		case okB != okA && k != "parameters":
			say(at, k+" came or went")
		}
	}
	bp, _ := before["properties"].(map[string]any)
	ap, _ := after["properties"].(map[string]any)
	brokenMap(at, bp, ap, say)
}

// tightened: a limit that is new or, by harder, stricter.
func tightened(before, after any, harder func(b, a float64) bool) bool {
	a, ok := after.(float64)
	if !ok {
		return false
	}
	b, ok := before.(float64)
	return !ok || harder(b, a)
}

func errorsLost(at string, before, after any, say func(at, what string)) {
	names := func(v any) (out []string) {
		list, _ := v.([]any)
		for _, e := range list {
			if m, ok := e.(map[string]any); ok {
				out = append(out, fmt.Sprint(m["name"]))
			}
		}
		return out
	}
	for _, n := range names(before) {
		if !slices.Contains(names(after), n) {
			say(at, "error "+n+" removed")
		}
	}
}

func sorted(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	slices.Sort(out)
	return out
}
