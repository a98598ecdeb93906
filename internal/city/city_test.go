package city_test

import (
	"io/fs"
	"maps"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/city"
)

func load(t *testing.T, name string) *city.City {
	t.Helper()
	folder, err := city.Folder(name)
	require.NoError(t, err)
	c, err := city.Load(folder)
	require.NoError(t, err)
	return c
}

func TestPilotCitiesGiveTheFiguresOfTheirGoldenVectors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name                string
		capacity, planned   int64
		issuers, redeemers  int
		entries, offerings  int
		planOfFirst         int64
		startsAt, endsAtUTC string
	}{
		{"berkeley", 15200, 20696, 5, 7, 15, 8, 4368, "2027-01-04T08:00:00Z", "2027-03-29T07:00:00Z"},
		{"cdmx", 50000, 54320, 6, 8, 15, 8, 7200, "2027-01-04T06:00:00Z", "2027-03-29T06:00:00Z"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := load(t, tc.name)
			var capacity, planned, first int64
			for _, o := range c.Offerings {
				capacity += o.CapacityMonth()
			}
			for _, e := range c.Catalog {
				planned += int64(e.Slots) * e.Credits
				if e.Issuer == c.Organizations[0].ID {
					first += int64(e.Slots) * e.Credits
				}
			}
			assert.Equal(t, tc.capacity, capacity)
			assert.Equal(t, tc.planned, planned)
			assert.Equal(t, tc.planOfFirst, first)
			assert.Len(t, c.WithRole(city.RoleIssuer), tc.issuers)
			assert.Len(t, c.WithRole(city.RoleRedeemer), tc.redeemers)
			assert.Len(t, c.Catalog, tc.entries)
			assert.Len(t, c.Offerings, tc.offerings)
			assert.Empty(t, c.Refusals())
			assert.Equal(t, tc.startsAt, c.Epoch.StartsAt.UTC().Format(time.RFC3339))
			assert.Equal(t, tc.endsAtUTC, c.Epoch.EndsAt.UTC().Format(time.RFC3339))
		})
	}
}

func TestBerkeleyTriesTwentySixFirstAidSlots(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []city.Try{{Entry: "PRE-03", Slots: 26}}, load(t, "berkeley").Tries)
}

func TestDefaultsOfTheOptionalColumns(t *testing.T) {
	t.Parallel()
	c := load(t, "berkeley")
	e := c.Catalog[0]
	assert.Equal(t, e.Title, e.Summary)
	assert.Equal(t, "Done as described, for the full time", e.Success)
	assert.Equal(t, "Berkeley library (demonstration)", e.Place)
	assert.Equal(t, []string{"background-check"}, c.Catalog[1].Credentials)
	assert.Equal(t, 90, c.Catalog[1].Minutes)
}

// small is the least folder that loads.
func small() map[string]string {
	return map[string]string{
		"city.csv": "key,value\nname,Small\nsymbol,$SML\ntz,Europe/Madrid\nlangs,\"es,en\"\nepoch,e1\n" +
			"epochStartsAt,2027-01-04T00:00:00+01:00\nepochEndsAt,2027-03-29T00:00:00+02:00\nphase,launch\n",
		"organizations.csv": "id,handle,name,roles,functionType\nLIB,library,Library,issuer,library\nBUS,transit,Bus,redeemer,transit\n",
		"catalog.csv": "id,issuer,title,tier,hours,credits,slots,verificationLevel,sensitivity,unknown\n" +
			"A-1,LIB,Desk,1,1,8,10,1,public,whatever\n",
		"offerings.csv": "id,redeemer,title,unit,physicalMonth,marginalMonth,committedMonth,cost,publicPriceMinor,currency,windows,essential,freeFor\n" +
			"O-1,BUS,Ride,ride,100,50,40,4,200,EUR,Mon-Fri 09:30-15:00,no,70+; children\n",
	}
}

func folder(files map[string]string) fs.FS {
	out := fstest.MapFS{}
	for name, body := range files {
		out[name] = &fstest.MapFile{Data: []byte(body)}
	}
	return out
}

func TestFolderOfTheSameShapeLoads(t *testing.T) {
	t.Parallel()
	files := small()
	files["city.csv"] = "\ufeff" + files["city.csv"] + "claimLimit,3\nmotto,ignored\n"
	files["catalog.csv"] = "id,issuer,title,tier,hours,credits,slots,verificationLevel,sensitivity,summary,success,benefit,place\n" +
		"A-1,LIB,Desk,1,0.75,6,10,1,public,What one does,A visitor was helped,Neighbours,Main hall\n"
	c, err := city.Load(folder(files))
	require.NoError(t, err)
	assert.Equal(t, int64(3), c.Params.ClaimLimit)
	e := c.Catalog[0]
	assert.Equal(t, 45, e.Minutes)
	assert.Equal(t, "What one does|A visitor was helped|Neighbours|Main hall", e.Summary+"|"+e.Success+"|"+e.Benefit+"|"+e.Place)
	o := c.Offerings[0]
	assert.Equal(t, int64(160), o.CapacityMonth())
	assert.Equal(t, []string{"70+", "children"}, o.FreeFor)
}

func TestFaultsAreNamedWithFileAndLine(t *testing.T) {
	t.Parallel()
	row := func(file, line string) func(map[string]string) {
		return func(m map[string]string) { m[file] += line + "\n" }
	}
	for _, tc := range []struct {
		name string
		edit func(map[string]string)
		want string
	}{
		{"missing file", func(m map[string]string) { delete(m, "catalog.csv") }, "catalog.csv: MissingFile"},
		{"missing column", func(m map[string]string) { m["offerings.csv"] = "id,redeemer\n" }, `offerings.csv:1: MissingColumn: column "title"`},
		{"double column", func(m map[string]string) { m["city.csv"] = "key,value,key\n" }, `city.csv:1: Duplicate`},
		{"ragged row", row("catalog.csv", "A-2,LIB,Desk"), "catalog.csv:3: BadTable"},
		{"not UTF-8", row("city.csv", "x,\xff"), "city.csv: BadTable: not UTF-8"},
		{"no zone", func(m map[string]string) {
			m["city.csv"] = replace(m["city.csv"], "Europe/Madrid", "Europe/Nowhere")
		}, "city.csv:4: BadValue: tz"},
		{"bad date", func(m map[string]string) {
			m["city.csv"] = replace(m["city.csv"], "2027-01-04T00:00:00+01:00", "4 January")
		}, "city.csv:7: BadDate"},
		{"epoch too short", func(m map[string]string) {
			m["city.csv"] = replace(m["city.csv"], "2027-03-29T00:00:00+02:00", "2027-01-11T00:00:00+01:00")
		}, "city.csv:8: BadDate: an epoch has at least 3 weeks"},
		{"missing key", func(m map[string]string) { m["city.csv"] = replace(m["city.csv"], "symbol,$SML\n", "") }, `city.csv: MissingValue: key "symbol"`},
		{"phase", func(m map[string]string) { m["city.csv"] = replace(m["city.csv"], "launch", "lunch") }, "city.csv:9: BadValue: phase"},
		{"reserved id", row("organizations.csv", "CITY,town,Town,issuer,x"), "organizations.csv:4: Reserved"},
		{"reserved handle", row("organizations.csv", "TWN,city,Town,issuer,x"), "organizations.csv:4: Reserved"},
		{"same handle", row("organizations.csv", "TWN,library,Town,issuer,x"), `organizations.csv:4: Duplicate: handle "library"`},
		{"handle form", row("organizations.csv", "TWN,Town Hall,Town,issuer,x"), "organizations.csv:4: BadValue: handle"},
		{"role", row("organizations.csv", "TWN,town,Town,boss,x"), `organizations.csv:4: BadValue: role "boss"`},
		{"same entry", row("catalog.csv", "A-1,LIB,Desk,1,1,8,10,1,public,"), `catalog.csv:3: Duplicate: id "A-1"`},
		{"issuer unknown", row("catalog.csv", "A-2,NOB,Desk,1,1,8,10,1,public,"), "catalog.csv:3: UnknownReference"},
		{"issuer is a redeemer", row("catalog.csv", "A-2,BUS,Desk,1,1,8,10,1,public,"), `catalog.csv:3: UnknownReference: issuer "BUS" has no role issuer`},
		{"hours that make no whole minute", row("catalog.csv", "A-2,LIB,Desk,1,0.3333,8,10,1,public,"), "catalog.csv:3: BadValue: hours"},
		{"no slots", row("catalog.csv", "A-2,LIB,Desk,1,1,8,0,1,public,"), "catalog.csv:3: BadValue: slots is 0"},
		{"level", row("catalog.csv", "A-2,LIB,Desk,1,1,8,1,5,public,"), "catalog.csv:3: BadValue: verificationLevel is 5"},
		{"sensitivity", row("catalog.csv", "A-2,LIB,Desk,1,1,8,1,1,secret,"), "catalog.csv:3: BadValue: sensitivity"},
		{"window", row("offerings.csv", "O-2,BUS,Ride,ride,1,1,1,4,200,EUR,Mon 25:00-26:00,no,"), "offerings.csv:3: BadValue: window"},
		{"currency", row("offerings.csv", "O-2,BUS,Ride,ride,1,1,1,4,200,eur,,no,"), "offerings.csv:3: BadValue: currency"},
		{"negative units", row("offerings.csv", "O-2,BUS,Ride,ride,-1,1,1,4,200,EUR,,no,"), "offerings.csv:3: BadValue: physicalMonth is -1"},
		{"try of nothing", func(m map[string]string) { m["tries.csv"] = "entry,slots\nZ-9,3\n" }, "tries.csv:2: UnknownReference"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			files := maps.Clone(small())
			tc.edit(files)
			_, err := city.Load(folder(files))
			require.Error(t, err)
			assert.Contains(t, err.Error(), tc.want)
			var fault *city.Error
			assert.ErrorAs(t, err, &fault)
		})
	}
}

func replace(s, old, new string) string {
	for i := 0; i+len(old) <= len(s); i++ {
		if s[i:i+len(old)] == old {
			return s[:i] + new + s[i+len(old):]
		}
	}
	panic("the text to replace is not there: " + old)
}

func TestRowsThatARuleRefusesDoNotStopTheCity(t *testing.T) {
	t.Parallel()
	files := small()
	files["offerings.csv"] += "O-2,BUS,Free ride,ride,10,10,10,4,0,EUR,,no,\nO-3,BUS,No price,ride,10,10,10,4,,,,no,\n"
	files["catalog.csv"] += "A-2,LIB,Rich,1,1,9,10,1,public,\nA-3,LIB,Tier nine,9,1,9,10,1,public,\n"
	c, err := city.Load(folder(files))
	require.NoError(t, err)
	var got []string
	for _, r := range c.Refusals() {
		got = append(got, r.Row+" "+r.Name)
	}
	assert.Equal(t, []string{"A-2 OutsideTierBand", "A-3 OutsideTierBand", "O-2 PublicPriceZero", "O-3 PublicPriceZero"}, got)
}

func TestDigestTellsCitiesApartButNotTheirFormatting(t *testing.T) {
	t.Parallel()
	a, err := city.Load(folder(small()))
	require.NoError(t, err)
	quoted := small()
	quoted["city.csv"] = replace(quoted["city.csv"], "name,Small", `"name","Small"`)
	b, err := city.Load(folder(quoted))
	require.NoError(t, err)
	dearer := small()
	dearer["offerings.csv"] = replace(dearer["offerings.csv"], "40,4,200", "40,5,200")
	d, err := city.Load(folder(dearer))
	require.NoError(t, err)
	assert.Equal(t, a.Digest(), b.Digest())
	assert.NotEqual(t, a.Digest(), d.Digest())
}
