package city

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a city's zone must be known on any machine

	"github.com/bluesky-social/indigo/atproto/syntax"
)

//go:embed data
var embedded embed.FS

// Files are the names of the files a city folder has; tries.csv may be missing.
var Files = []string{"city.csv", "organizations.csv", "catalog.csv", "offerings.csv", "tries.csv"}

// Embedded lists the cities that the program carries.
func Embedded() []string { return carried.names() }

// Folder gives the files of an embedded city by name, or else of a directory.
func Folder(name string) (fs.FS, error) { return carried.folder("UnknownCity", name) }

var carried = shelf{embedded, "data"}

// A shelf is a tree that is compiled in, with a folder for each name.
type shelf struct {
	tree embed.FS
	root string
}

func (s shelf) names() []string {
	dirs, err := s.tree.ReadDir(s.root)
	if err != nil {
		panic(err) // the tree is compiled in
	}
	var out []string
	for _, d := range dirs {
		out = append(out, d.Name())
	}
	return out
}

func (s shelf) folder(unknown, name string) (fs.FS, error) {
	names := s.names()
	if slices.Contains(names, name) {
		return fs.Sub(s.tree, s.root+"/"+name)
	}
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s: %q is neither %s nor a folder", unknown, name, strings.Join(names, " nor "))
	}
	return os.DirFS(filepath.Clean(name)), nil
}

// Load reads and checks a city folder. Its error joins up to 20 faults, each an
// *Error with file and line.
func Load(fsys fs.FS) (*City, error) {
	var f faults
	c := &City{Params: DefaultParameters()}
	c.readCity(fsys, &f)
	c.readOrganizations(fsys, &f)
	c.readCatalog(fsys, &f)
	c.readOfferings(fsys, &f)
	if _, err := fs.Stat(fsys, "tries.csv"); err == nil {
		c.readTries(fsys, &f)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return c, nil
}

var (
	idForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,15}$`)
	labelForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,16}[a-z0-9])$`)
	epochForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,15}$`)
	moneyForm = regexp.MustCompile(`^[A-Z]{3}$`)
)

func (c *City) readCity(fsys fs.FS, f *faults) {
	t := readTable(fsys, "city.csv", []string{"key", "value"}, f)
	values := map[string]*row{}
	for _, r := range t.rows {
		key := r.text("key", 64)
		if values[key] != nil {
			r.fail("Duplicate", "key %q stands twice", key)
		}
		values[key] = r
	}
	need := func(key string, maxLength int) (string, *row) {
		r := values[key]
		if r == nil {
			if len(t.rows) > 0 {
				f.add("MissingValue", "city.csv", 0, "key %q is missing", key)
			}
			return "", nil
		}
		return r.text("value", maxLength), r
	}
	c.Name, _ = need("name", 100)
	c.Symbol, _ = need("symbol", 16)
	c.readLangs(need("langs", 100))
	c.readEpoch(need)
	for key, p := range c.parameterKeys() {
		if r := values[key]; r != nil {
			*p.field = r.integer("value", p.low, p.high)
		}
	}
}

type parameterKey struct {
	field     *int64
	low, high int64
}

// parameterKeys are the optional keys of city.csv, fields of the parameter set with
// that record's bounds.
func (c *City) parameterKeys() map[string]parameterKey {
	p := &c.Params
	return map[string]parameterKey{
		"capPhaseBps":    {&p.CapPhaseBps, 0, 10000},
		"capShareBps":    {&p.CapShareBps, 0, 10000},
		"ascrMaxMilli":   {&p.ASCRMaxMilli, 0, 1_000_000},
		"deltaCapBps":    {&p.DeltaCapBps, 0, 10000},
		"rStartBps":      {&p.RStartBps, 1, 10000},
		"deltaStartBps":  {&p.DeltaStartBps, 0, 10000},
		"dormancyMonths": {&p.DormancyMonths, 1, 1200},
		"warmUpMonths":   {&p.WarmUpMonths, 0, 120},
		"claimLimit":     {&p.ClaimLimit, 1, 1000},
		"claimLapseDays": {&p.ClaimLapseDays, 0, 366},
		"votesPerCredit": {&p.VotesPerCredit, 0, 1000},
		"kMin":           {&p.KMin, 5, 1000},
	}
}

func (c *City) readLangs(text string, r *row) {
	for l := range strings.SplitSeq(text, ",") {
		l = strings.TrimSpace(l)
		if l == "" {
			continue
		}
		if _, err := syntax.ParseLanguage(l); err != nil {
			r.fail("BadValue", "langs: %q is no language tag", l)
			continue
		}
		c.Langs = append(c.Langs, l)
	}
	if len(c.Langs) > 5 {
		r.fail("TooLarge", "langs: at most 5")
	}
}

func (c *City) readEpoch(need func(string, int) (string, *row)) {
	tz, r := need("tz", 64)
	loc := time.UTC
	if tz != "" {
		var err error
		if loc, err = time.LoadLocation(tz); err != nil || tz == "Local" {
			r.fail("BadValue", "tz %q is no zone of the time zone database", tz)
			loc = time.UTC
		}
	}
	c.TZ = tz
	e := Epoch{Phase: PhaseLaunch}
	if e.Key, r = need("epoch", 16); r != nil && e.Key != "" && !epochForm.MatchString(e.Key) {
		r.fail("BadValue", "epoch %q: lower-case letters, digits, dot, hyphen, underscore, at most 16", e.Key)
	}
	if phase, r := need("phase", 16); r != nil {
		if e.Phase = phase; phase != PhaseLaunch && phase != PhaseSteady {
			r.fail("BadValue", "phase %q is neither launch nor steady", phase)
		}
	}
	date := func(key string) (time.Time, *row) {
		s, r := need(key, 40)
		if s == "" {
			return time.Time{}, r
		}
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			r.fail("BadDate", "%s %q is no date like 2027-01-04T00:00:00-08:00", key, s)
			return time.Time{}, r
		}
		return at.In(loc), r
	}
	e.StartsAt, _ = date("epochStartsAt")
	var end *row
	e.EndsAt, end = date("epochEndsAt")
	if !e.StartsAt.IsZero() && !e.EndsAt.IsZero() {
		if err := checkEpoch(e, loc); err != nil {
			end.fail("BadDate", "%v", err)
		} else {
			e.Months = months(e.StartsAt, e.EndsAt, loc)
		}
	}
	c.Epoch = e
}

func (c *City) readOrganizations(fsys fs.FS, f *faults) {
	t := readTable(fsys, "organizations.csv", []string{"id", "handle", "name", "roles", "functionType"}, f)
	seen := ids{IDCity: true, IDLedger: true}
	handles := ids{HandleCity: true, HandleLedger: true}
	for _, r := range t.rows {
		o := Organization{
			ID: seen.id(r, "id"), Handle: r.text("handle", 64), Name: r.text("name", 100),
			FunctionType: r.text("functionType", 64),
		}
		if o.Handle != "" && (!labelForm.MatchString(o.Handle) || len(o.Handle) < 3) {
			r.fail("BadValue", "handle %q: one label of 3 to 18 lower-case letters, digits and hyphens", o.Handle)
		} else {
			handles.take(r, "handle", o.Handle)
		}
		o.Summary = r.or("summary", o.Name, 300)
		o.Place = r.or("place", o.Name, 100)
		for _, role := range r.phrases("roles", 8, 32) {
			if !slices.Contains([]string{RoleIssuer, RoleRedeemer, RoleSponsor, RoleVerifier, RoleWitness}, role) {
				r.fail("BadValue", "role %q is none of issuer, redeemer, sponsor, verifier, witness", role)
			}
			o.Roles = append(o.Roles, role)
		}
		if len(o.Roles) == 0 {
			r.fail("MissingValue", "roles is empty")
		}
		c.Organizations = append(c.Organizations, o)
	}
	if len(t.rows) > 0 && (len(c.WithRole(RoleIssuer)) == 0 || len(c.WithRole(RoleRedeemer)) == 0) {
		f.add("MissingValue", t.file, 0, "a city has at least one issuer and one redeemer")
	}
}

func (c *City) readCatalog(fsys fs.FS, f *faults) {
	t := readTable(fsys, "catalog.csv", []string{"id", "issuer", "title", "tier", "hours", "credits", "slots",
		"verificationLevel", "sensitivity"}, f)
	seen := ids{}
	for _, r := range t.rows {
		e := Entry{
			ID: seen.id(r, "id"), Issuer: c.reference(r, "issuer", RoleIssuer), Title: r.text("title", 100),
			Tier: int(r.integer("tier", 1, 9)), Minutes: r.minutes("hours"),
			Credits: r.integer("credits", 1, maxAmount), Slots: int(r.integer("slots", 1, 100*10000)),
			VerificationLevel: int(r.integer("verificationLevel", 1, 4)),
			Sensitivity:       r.choice("sensitivity", Public, Pseudonymous, Sealed),
			Credentials:       r.phrases("credential", 10, 100), ReservedFor: r.phrases("reservedFor", 10, 100),
			Note: r.optional("note", 300), Benefit: r.optional("benefit", 300),
		}
		e.Summary = r.or("summary", e.Title, 300)
		e.Success = r.or("success", "Done as described, for the full time", 300)
		org, _ := c.Organization(e.Issuer)
		e.Place = r.or("place", org.Place, 100)
		c.Catalog = append(c.Catalog, e)
	}
}

func (c *City) readOfferings(fsys fs.FS, f *faults) {
	t := readTable(fsys, "offerings.csv", []string{"id", "redeemer", "title", "unit", "physicalMonth", "marginalMonth",
		"committedMonth", "cost", "publicPriceMinor", "currency"}, f)
	seen := ids{}
	for _, r := range t.rows {
		o := Offering{
			ID: seen.id(r, "id"), Redeemer: c.reference(r, "redeemer", RoleRedeemer), Title: r.text("title", 100),
			Unit: r.text("unit", 64), PhysicalMonth: r.integer("physicalMonth", 0, maxAmount),
			MarginalMonth: r.integer("marginalMonth", 0, maxAmount), CommittedMonth: r.integer("committedMonth", 0, maxAmount),
			Cost: r.integer("cost", 1, maxAmount), FreeFor: r.phrases("freeFor", 10, 100),
		}
		if s := r.optional("publicPriceMinor", 32); s != "" {
			price := r.integer("publicPriceMinor", 0, maxAmount)
			o.PublicPriceMinor = &price
			if o.Currency = r.text("currency", 3); o.Currency != "" && !moneyForm.MatchString(o.Currency) {
				r.fail("BadValue", "currency %q: three capital letters", o.Currency)
			}
		}
		var err error
		if o.Windows, err = ParseWindows(r.optional("windows", 2000)); err != nil {
			r.fail("BadValue", "%v", err)
		}
		switch s := r.or("essential", "no", 8); s {
		case "yes", "no":
			o.Essential = s == "yes"
		default:
			r.fail("BadValue", "essential %q is neither yes nor no", s)
		}
		o.Summary = r.or("summary", o.Title, 300)
		org, _ := c.Organization(o.Redeemer)
		o.Place = r.or("place", org.Place, 100)
		c.Offerings = append(c.Offerings, o)
	}
}

func (c *City) readTries(fsys fs.FS, f *faults) {
	t := readTable(fsys, "tries.csv", []string{"entry", "slots"}, f)
	for _, r := range t.rows {
		id := r.text("entry", 16)
		if !slices.ContainsFunc(c.Catalog, func(e Entry) bool { return e.ID == id }) {
			r.fail("UnknownReference", "entry %q is not in catalog.csv", id)
		}
		c.Tries = append(c.Tries, Try{Entry: id, Slots: int(r.integer("slots", 1, 100*10000))})
	}
}

func (c *City) reference(r *row, col, role string) string {
	id := r.text(col, 16)
	o, ok := c.Organization(id)
	switch {
	case id == "":
	case !ok:
		r.fail("UnknownReference", "%s %q is not in organizations.csv", col, id)
	case !o.Is(role):
		r.fail("UnknownReference", "%s %q has no role %s", col, id, role)
	}
	return id
}

// ids remembers the names already taken in one column.
type ids map[string]bool

func (s ids) id(r *row, col string) string {
	id := r.text(col, 16)
	if id != "" && !idForm.MatchString(id) {
		r.fail("BadValue", "%s %q: letters, digits, dot, hyphen, underscore, at most 16", col, id)
		return id
	}
	s.take(r, col, id)
	return id
}

func (s ids) take(r *row, col, name string) {
	switch {
	case name == "":
		return
	case name == IDCity || name == IDLedger || name == HandleCity || name == HandleLedger:
		r.fail("Reserved", "%s %s belongs to the city itself", col, strconv.Quote(name))
	case s[name]:
		r.fail("Duplicate", "%s %q stands twice", col, name)
	}
	s[name] = true
}
