package lexicons

import (
	"encoding/json"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/lexicon"
	"github.com/bluesky-social/indigo/lex/lexlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// files reads the schema files below dir of fsys, by NSID.
func files(t testing.TB, fsys fs.FS, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	require.NoError(t, fs.WalkDir(fsys, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		require.Equal(t, ".json", path.Ext(p))
		b, err := fs.ReadFile(fsys, p)
		require.NoError(t, err)
		nsid := strings.ReplaceAll(strings.TrimSuffix(p, ".json"), "/", ".")
		out[nsid[strings.Index(nsid, "org."):]] = b
		return nil
	}))
	require.NotEmpty(t, out)
	return out
}

func TestSchemasPassTheNetworksLint(t *testing.T) {
	t.Parallel()
	for nsid, b := range files(t, Schemas, "org") {
		var sf lexicon.SchemaFile
		require.NoError(t, json.Unmarshal(b, &sf), nsid)
		require.NoError(t, sf.FinishParse(), nsid)
		require.NoError(t, sf.CheckSchema(), nsid)
		for _, issue := range lexlint.LintSchemaFile(&sf) {
			if issue.LintName == "large-string" { // our longest text is 30 000 bytes, as the conventions say
				continue
			}
			assert.Fail(t, issue.Message, "%s: %s", nsid, issue.LintName)
		}
	}
}

func TestSchemasFollowOurRules(t *testing.T) {
	t.Parallel()
	all := files(t, Schemas, "org")
	for nsid, b := range all {
		assert.Empty(t, breaches(t, nsid, b), nsid)
		for other := range all {
			assert.False(t, strings.HasPrefix(other, nsid+"."), "%s is both a schema and the group of %s", nsid, other)
		}
	}
}

func TestLintNoticesEachBreach(t *testing.T) {
	t.Parallel()
	field := func(f string) string {
		return `{"lexicon":1,"id":"org.city-sync.a.thing","defs":{"main":{"type":"record","key":"tid","description":"d","record":{"type":"object","properties":{` + f + `}}}}}`
	}
	require.Empty(t, breaches(t, "org.city-sync.a.thing", []byte(field(`"ok":{"type":"string","maxLength":8}`))))
	for want, schema := range map[string]string{
		"lowerCamelCase":      field(`"Not_ok":{"type":"integer"}`),
		"format xor":          field(`"a":{"type":"string","format":"did","maxLength":8}`),
		"maxLength":           field(`"a":{"type":"string"}`),
		"10 to 20 times":      field(`"a":{"type":"string","maxGraphemes":100,"maxLength":100}`),
		"in a list":           field(`"a":{"type":"array","maxLength":2,"items":{"type":"object","properties":{}}}`),
		"in an object":        field(`"a":{"type":"object","properties":{}}`),
		"array":               field(`"a":{"type":"array","items":{"type":"integer"}}`),
		"enum":                field(`"a":{"type":"string","maxLength":8,"enum":["x"]}`),
		"closed":              field(`"a":{"type":"union","refs":["#x"],"closed":true}`),
		"unknown":             field(`"a":{"type":"unknown"}`),
		"nullable":            `{"lexicon":1,"id":"org.city-sync.a.thing","defs":{"main":{"type":"record","key":"tid","description":"d","record":{"type":"object","nullable":["a"],"properties":{"a":{"type":"integer"}}}}}}`,
		"description":         `{"lexicon":1,"id":"org.city-sync.a.thing","defs":{"main":{"type":"record","key":"tid","record":{"type":"object","properties":{}}}}}`,
		"accept":              field(`"a":{"type":"blob","maxSize":5}`),
		"bytes":               field(`"a":{"type":"bytes"}`),
		"kebab":               field(`"a":{"type":"string","maxLength":8,"knownValues":["Not_kebab"]}`),
		"has id":              field(`"a":{"type":"integer"}`)[:13] + `"id":"org.city-sync.a.other","defs":{}}`,
		"UpperCamelCase":      `{"lexicon":1,"id":"org.city-sync.a.thing","defs":{"main":{"type":"query","description":"d","output":{"encoding":"application/json","schema":{"type":"object","properties":{}}},"errors":[{"name":"not_so","description":"d"}]}}}`,
		"without description": `{"lexicon":1,"id":"org.city-sync.a.thing","defs":{"main":{"type":"query","description":"d","output":{"encoding":"application/json","schema":{"type":"object","properties":{}}},"errors":[{"name":"Sad"}]}}}`,
		"output":              `{"lexicon":1,"id":"org.city-sync.a.getThing","defs":{"main":{"type":"query","description":"d"}}}`,
		"verb":                `{"lexicon":1,"id":"org.city-sync.a.thing","defs":{"main":{"type":"query","description":"d","output":{"encoding":"application/json","schema":{"type":"object","properties":{}}}}}}`,
	} {
		got := strings.Join(breaches(t, "org.city-sync.a.thing", []byte(schema)), "\n")
		assert.Contains(t, got, want)
	}
}

var (
	lowerCamel = regexp.MustCompile(`^[a-z][a-zA-Z0-9]*$`)
	upperCamel = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*$`)
	kebab      = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	verb       = regexp.MustCompile(`^(get|list|query|search|create|update|delete|put|explain|activate|bind|open|add|pause|resume|erase|close|reset|capture|end|issue|accept|remove)([A-Z]|$)`)
)

// breaches lists where a schema file breaks the rules of README.md.
func breaches(t testing.TB, nsid string, raw []byte) []string {
	t.Helper()
	var sf struct {
		ID   string                    `json:"id"`
		Defs map[string]map[string]any `json:"defs"`
	}
	require.NoError(t, json.Unmarshal(raw, &sf))
	var out []string
	say := func(where, what string) { out = append(out, where+": "+what) }
	if sf.ID != nsid {
		say(nsid, "has id "+sf.ID)
	}
	name := nsid[strings.LastIndexByte(nsid, '.')+1:]
	if !lowerCamel.MatchString(name) {
		say(nsid, "name is not lowerCamelCase")
	}
	for def, d := range sf.Defs {
		if !lowerCamel.MatchString(def) {
			say(def, "name is not lowerCamelCase")
		}
		if text, _ := d["description"].(string); text == "" {
			say(def, "no description")
		}
		typ, _ := d["type"].(string)
		if typ == "query" || typ == "procedure" {
			if d["output"] == nil {
				say(def, "no output")
			}
			if !verb.MatchString(name) {
				say(def, "the name of a method begins with a verb")
			}
		}
		errs, _ := d["errors"].([]any)
		for _, e := range errs {
			m := e.(map[string]any)
			if n, _ := m["name"].(string); !upperCamel.MatchString(n) {
				say(def, "error "+n+" is not UpperCamelCase")
			}
			if text, _ := m["description"].(string); text == "" {
				say(def, "error without description")
			}
		}
		typeBreaches(def, d, typ == "record" || nsid == Root+".defs", say)
	}
	return out
}

// typeBreaches walks a definition; inRecord tells whether it is part of a
// record, where nothing may stay open.
func typeBreaches(at string, d map[string]any, inRecord bool, say func(where, what string)) {
	num := func(k string) float64 { n, _ := d[k].(float64); return n }
	if d["enum"] != nil {
		say(at, "enum closes a list for ever")
	}
	if d["nullable"] != nil {
		say(at, "nullable")
	}
	switch d["type"] {
	case "string":
		switch {
		case d["format"] != nil && (d["maxLength"] != nil || d["maxGraphemes"] != nil):
			say(at, "format xor length")
		case d["format"] == nil && d["maxLength"] == nil:
			say(at, "no maxLength")
		case d["maxGraphemes"] != nil && (num("maxLength") < 10*num("maxGraphemes") || num("maxLength") > 20*num("maxGraphemes")):
			say(at, "maxLength is 10 to 20 times maxGraphemes")
		}
		known, _ := d["knownValues"].([]any)
		for _, v := range known {
			if s, _ := v.(string); !kebab.MatchString(s) && !strings.HasPrefix(s, Root+".defs#") {
				say(at, s+" is neither kebab-case nor a token")
			}
		}
	case "bytes":
		if d["maxLength"] == nil {
			say(at, "bytes without maxLength")
		}
	case "array":
		if d["maxLength"] == nil {
			say(at, "array without maxLength")
		}
	case "union":
		if d["closed"] != nil {
			say(at, "closed union")
		}
	case "unknown":
		if inRecord {
			say(at, "unknown in a record")
		}
	case "blob":
		if d["accept"] == nil || d["maxSize"] == nil {
			say(at, "blob without accept and maxSize")
		}
	}
	if items, ok := d["items"].(map[string]any); ok && items["type"] == "object" {
		say(at, "an object in a list has a name of its own, and is referred to")
	}
	if props, ok := d["properties"].(map[string]any); ok {
		for name, p := range props {
			if p.(map[string]any)["type"] == "object" {
				say(at+"."+name, "an object in an object has a name of its own, and is referred to")
			}
			if !lowerCamel.MatchString(name) {
				say(at+"."+name, "name is not lowerCamelCase")
			}
			typeBreaches(at+"."+name, p.(map[string]any), inRecord, say)
		}
	}
	for _, part := range []string{"record", "items", "parameters", "input", "output", "schema"} {
		if sub, ok := d[part].(map[string]any); ok {
			typeBreaches(at+"/"+part, sub, inRecord, say)
		}
	}
}
