// Package lexicons holds the schemas of City/Sync and of the foreign records
// they cite, and judges records by them.
//
// The JSON files below org, com and community are the source; everything else
// follows from them (go run ./lexicons/gen). A record is judged as the bytes
// that were signed, never as a decoded struct.
//
// Invariants:
//
//	L1  DecodeCBOR accepts only the one canonical DAG-CBOR form of a value of
//	    the atproto data model: encoding what it returns gives the same bytes.
//	L2  Validate accepts a record only if its bytes, its $type, every field the
//	    schema names, every citation and its record key are right. Fields the
//	    schema does not name, and unknown variants of unions, are let through.
//	L3  Nothing here panics or recurses without bound on any input.
//	L4  All functions are pure: no clock, no network, no state that changes. The
//	    same record is refused for the same reason each time.
package lexicons

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/bluesky-social/indigo/atproto/lexicon"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

// Root is the NSID under which all schemas of City/Sync stand.
const Root = "org.city-sync"

// Schemas holds the schema files, by NSID folder.
//
//go:embed org com community/lexicon
var Schemas embed.FS

// InvalidError says why a record does not count. It is final: the same bytes
// fail again.
type InvalidError struct {
	NSID   string
	Reason string
}

func (e *InvalidError) Error() string { return "invalid " + e.NSID + ": " + e.Reason }

// Validate judges the canonical DAG-CBOR bytes of a record under its key. It
// returns nil or an *InvalidError, also for a type that is not compiled in.
func Validate(nsid, rkey string, cbor []byte) (err error) {
	invalid := func(format string, a ...any) error {
		return &InvalidError{NSID: nsid, Reason: shortened(fmt.Sprintf(format, a...))}
	}
	defer func() {
		if p := recover(); p != nil {
			err = invalid("panic while judging: %v", p)
		}
	}()
	rec, ok := compiled().records[nsid]
	if !ok {
		return invalid("unknown record type")
	}
	v, err := DecodeCBOR(cbor)
	if err != nil {
		return invalid("%v", err)
	}
	if v["$type"] != nsid {
		return invalid("$type is not %s", nsid)
	}
	j := judge{cat: compiled().catalog}
	if err := j.object(nsid, rec.Record, v, ""); err != nil {
		return invalid("%v", err)
	}
	if err := checkKey(nsid, rec.Key, rkey, v); err != nil {
		return invalid("record key: %v", err)
	}
	if check := checks[nsid]; check != nil {
		if err := check(v, rkey); err != nil {
			return invalid("%v", err)
		}
	}
	return nil
}

// maxReason bounds a reason, which may quote a stranger's record and is stored
// and shown.
const maxReason = 300

func shortened(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "") + " …"
}

// Known reports whether nsid is a record type compiled in.
func Known(nsid string) bool {
	_, ok := compiled().records[nsid]
	return ok
}

// Records lists the NSIDs of all record types of ours, sorted.
func Records() []string { return names(compiled().records) }

// Methods lists the NSIDs of all queries, procedures and subscriptions of
// ours, sorted.
func Methods() []string { return names(compiled().methods) }

// CheckInput judges the JSON body of a call by the schema of its method.
func CheckInput(nsid string, body []byte) error {
	return checkBody(nsid, compiled().methods[nsid].input, body)
}

// CheckOutput judges the JSON body of an answer by the schema of its method.
// It is meant for tests of those who answer.
func CheckOutput(nsid string, body []byte) error {
	return checkBody(nsid, compiled().methods[nsid].output, body)
}

func checkBody(nsid string, schema *lexicon.SchemaBody, body []byte) (err error) {
	defer recovered(&err)
	if schema == nil || schema.Schema == nil {
		return fmt.Errorf("%s has no such body", nsid)
	}
	v, err := DecodeJSON(body)
	if err != nil {
		return fmt.Errorf("%s: %w", nsid, err)
	}
	if err := (judge{cat: compiled().catalog}).value(nsid, schema.Schema.Inner, v, ""); err != nil {
		return fmt.Errorf("%s: %w", nsid, err)
	}
	return nil
}

// library is what the schema files compile to.
type library struct {
	catalog *lexicon.BaseCatalog
	records map[string]lexicon.SchemaRecord
	methods map[string]method
	sets    map[string]PermissionSet
}

// method is what is used of the schema of a method.
type method struct {
	input, output *lexicon.SchemaBody
}

// compiled parses the embedded schemas once. They are part of the program, so
// one that does not parse is a broken build.
var compiled = sync.OnceValue(func() *library {
	lib, err := compile(Schemas)
	if err != nil {
		panic(fmt.Sprintf("lexicons: %v", err))
	}
	return lib
})

func compile(files fs.FS) (*library, error) {
	lib := &library{
		catalog: lexicon.NewBaseCatalog(),
		records: map[string]lexicon.SchemaRecord{},
		methods: map[string]method{},
		sets:    map[string]PermissionSet{},
	}
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(p) != ".json" {
			return err
		}
		b, err := fs.ReadFile(files, p)
		if err != nil {
			return err
		}
		var sf lexicon.SchemaFile
		if err := json.Unmarshal(b, &sf); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if err := lib.catalog.AddSchemaFile(sf); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if !ours(sf.ID) {
			return nil
		}
		switch main := sf.Defs["main"].Inner.(type) {
		case lexicon.SchemaRecord:
			lib.records[sf.ID] = main
		case lexicon.SchemaQuery:
			lib.methods[sf.ID] = method{output: main.Output}
		case lexicon.SchemaProcedure:
			lib.methods[sf.ID] = method{input: main.Input, output: main.Output}
		case lexicon.SchemaSubscription:
			lib.methods[sf.ID] = method{}
		case lexicon.SchemaPermissionSet:
			lib.sets[sf.ID] = newPermissionSet(sf.ID, main)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for nsid, rec := range lib.records {
		if err := resolvable(lib.catalog, nsid, rec.Record, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", nsid, err)
		}
	}
	for nsid, m := range lib.methods {
		for _, body := range []*lexicon.SchemaBody{m.input, m.output} {
			if body == nil || body.Schema == nil {
				continue
			}
			if err := resolvable(lib.catalog, nsid, body.Schema.Inner, 0); err != nil {
				return nil, fmt.Errorf("%s: %w", nsid, err)
			}
		}
	}
	return lib, nil
}

func ours(nsid string) bool { return strings.HasPrefix(nsid, Root+".") }

func names[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// checkKey enforces the key type of the schema and, for records whose key is
// derived, that it is the derived one.
func checkKey(nsid, rule, rkey string, rec map[string]any) error {
	if _, err := syntax.ParseRecordKey(rkey); err != nil {
		return err
	}
	switch {
	case rule == "tid":
		if _, err := syntax.ParseTID(rkey); err != nil {
			return err
		}
	case strings.HasPrefix(rule, "literal:"):
		if rkey != strings.TrimPrefix(rule, "literal:") {
			return fmt.Errorf("must be %s", strings.TrimPrefix(rule, "literal:"))
		}
	case rule == "nsid":
		if _, err := syntax.ParseNSID(rkey); err != nil {
			return err
		}
	}
	if derive := derivedKeys[nsid]; derive != nil {
		if want := derive(rec); rkey != want {
			return fmt.Errorf("must be %s", want)
		}
	}
	return nil
}
