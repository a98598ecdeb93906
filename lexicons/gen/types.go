package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"github.com/bluesky-social/indigo/lex"
)

// The generator makes Go identifiers out of NSID prefixes, and a hyphen is
// none: it works on a copy in which the root has no hyphen.
const (
	rootNSID  = "org.city-sync"
	plainNSID = "org.citysync"
)

// schema is one schema file as far as this program looks into it.
type schema struct {
	Path string // slash path below lexicons
	Raw  []byte
	ID   string                `json:"id"`
	Defs map[string]definition `json:"defs"`
}

type definition struct {
	Type string `json:"type"`
}

// main is the type of the main definition, empty in a file of shared ones.
func (s schema) main() string { return s.Defs["main"].Type }

func (s schema) ours() bool { return strings.HasPrefix(s.ID, rootNSID+".") }

// readSchemas reads the schema folders in path order.
func readSchemas(dir string) ([]schema, error) {
	var out []schema
	for _, top := range []string{"org", "com", "community/lexicon"} {
		err := filepath.WalkDir(filepath.Join(dir, filepath.FromSlash(top)), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(p) != ".json" {
				return err
			}
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			s := schema{Path: filepath.ToSlash(rel), Raw: raw}
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("%s: %w", rel, err)
			}
			if want := strings.ReplaceAll(s.ID, ".", "/") + ".json"; s.Path != want {
				return fmt.Errorf("%s has id %s: its place is %s", s.Path, s.ID, want)
			}
			out = append(out, s)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read schemas: %w", err)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

// writeTypes lets lexgen write the Go types of records and shared definitions
// into stage/citysync and stage/community. Methods get no types here: each
// service has its own, and permission sets stop lexgen.
func writeTypes(schemas []schema, stage string) error {
	packages := []lex.Package{
		{GoPackage: "citysync", Prefix: plainNSID, Outdir: filepath.Join(stage, "citysync"), Import: modulePath + "/lexicons/citysync"},
		{GoPackage: "community", Prefix: "community.lexicon", Outdir: filepath.Join(stage, "community"), Import: modulePath + "/lexicons/community"},
		{GoPackage: "atproto", Prefix: "com.atproto", Import: "github.com/bluesky-social/indigo/api/atproto"},
	}
	needed := inRecords(schemas)
	var compiled, external []*lex.Schema
	for _, s := range schemas {
		if !needed[s.ID] {
			continue
		}
		file := filepath.Join(stage, "json", s.ID+".json")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		plain := bytes.ReplaceAll(s.Raw, []byte(rootNSID), []byte(plainNSID))
		if err := os.WriteFile(file, plain, 0o644); err != nil {
			return err
		}
		ls, err := lex.ReadSchema(file)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Path, err)
		}
		if strings.HasPrefix(s.ID, "com.atproto.") {
			external = append(external, ls)
		} else {
			compiled = append(compiled, ls)
		}
	}
	if err := quietly(func() error { return lex.Run(compiled, external, packages) }); err != nil {
		return fmt.Errorf("lexgen: %w", err)
	}
	return restoreHyphen(stage)
}

// inRecords names the files of records and of all they refer to. Views that
// only methods use need no Go types.
func inRecords(schemas []schema) map[string]bool {
	byID := map[string]schema{}
	for _, s := range schemas {
		byID[s.ID] = s
	}
	needed := map[string]bool{}
	var follow func(id string)
	follow = func(id string) {
		s, ok := byID[id]
		if !ok || needed[id] {
			return
		}
		needed[id] = true
		for _, m := range refPattern.FindAllSubmatch(s.Raw, -1) {
			follow(string(m[1]))
		}
	}
	for _, s := range schemas {
		if s.main() == "record" {
			follow(s.ID)
		}
	}
	return needed
}

// refPattern finds every text that names a schema file, with or without a
// fragment: a reference, or a token among known values.
var refPattern = regexp.MustCompile(`"([a-z][a-z0-9-]*(?:\.[a-zA-Z0-9-]+){2,})(?:#[a-zA-Z0-9]+)?"`)

// restoreHyphen gives the generated Go the real NSIDs and a header that says
// where it comes from.
func restoreHyphen(stage string) error {
	for _, pkg := range goPackages {
		files, err := filepath.Glob(filepath.Join(stage, pkg, "*.go"))
		if err != nil {
			return err
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			b = bytes.ReplaceAll(b, []byte(plainNSID), []byte(rootNSID))
			b = bytes.Replace(b, []byte("by cmd/lexgen (see Makefile's lexgen)"), []byte("by lexicons/gen"), 1)
			if err := os.WriteFile(f, b, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// quietly keeps lexgen's progress chatter off standard output and turns its
// panics on unknown references into errors.
func quietly(fn func() error) (err error) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	stdout := os.Stdout
	os.Stdout = null
	defer func() {
		os.Stdout = stdout
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return fn()
}
