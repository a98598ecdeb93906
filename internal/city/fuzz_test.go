package city_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
)

// FuzzFolder: a folder of anybody's is a city whose founding can be written down, or is refused with the place of its faults.
func FuzzFolder(f *testing.F) {
	s := small()
	add := func(edit func(map[string]string)) {
		m := small()
		edit(m)
		f.Add(m["city.csv"], m["organizations.csv"], m["catalog.csv"], m["offerings.csv"], m["tries.csv"])
	}
	add(func(map[string]string) {})
	add(func(m map[string]string) { m["tries.csv"] = "entry,slots\nA-1,3\n" })
	add(func(m map[string]string) { m["city.csv"] += "\"\nclaimLimit,3" })
	add(func(m map[string]string) { m["catalog.csv"] += strings.Repeat("A-2,LIB,Desk,1,1,8,10,1,public,\n", 30) })
	add(func(m map[string]string) {
		m["city.csv"] = strings.Replace(m["city.csv"], "2027-03-29", "9999-03-29", 1)
	})
	add(func(m map[string]string) {
		m["city.csv"] = strings.Replace(m["city.csv"], "Europe/Madrid", "../../etc/passwd", 1)
	})
	f.Add(s["city.csv"], "\x00", "id\n", ",", "\n\n")
	f.Fuzz(func(t *testing.T, cityCSV, organizations, catalog, offerings, tries string) {
		files := map[string]string{"city.csv": cityCSV, "organizations.csv": organizations, "catalog.csv": catalog, "offerings.csv": offerings}
		if tries != "" {
			files["tries.csv"] = tries
		}
		c, err := city.Load(folder(files))
		if err != nil {
			var fault *city.Error
			require.ErrorAs(t, err, &fault)
			return
		}
		require.Len(t, c.Epoch.Months, 3)
		_ = c.Digest()
		_ = c.Refusals()
		check := func(nsid string, rec marshaler) {
			var b bytes.Buffer
			require.NoError(t, rec.MarshalCBOR(&b))
			require.NoError(t, lexicons.Validate(nsid, "3mfyouvwom222", b.Bytes()))
		}
		ref := &city.Ref{Uri: "at://" + someDID.String() + "/org.city-sync.gov.decision/founding",
			Cid: "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"}
		check(lexicons.GovParameterSet, c.ParameterSet(ref))
		for _, e := range c.Catalog {
			if len(e.Credentials) == 0 {
				check(lexicons.CatalogEntry, c.Draft(e, ref, nil))
			}
		}
		for _, o := range c.Offerings {
			if o.PublicPriceMinor != nil && *o.PublicPriceMinor > 0 {
				check(lexicons.OfferOffering, c.OfferingRecord(o))
			}
		}
		c.Shift(c.Weeks(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)))
	})
}

func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	const row = "A-2,LIB,Desk,1,1,8,10,1,public,\n"
	for name, c := range map[string]struct {
		more string
		want string
	}{
		"bytes":       {strings.Repeat("#", 4<<20), "catalog.csv: BadTable: more than 4194304 bytes"},
		"rows":        {strings.Repeat(row, 5001), "catalog.csv: TooLarge: more than 5000 rows"},
		"many faults": {strings.Repeat(row, 200), "Duplicate"},
	} {
		files := small()
		files["catalog.csv"] += c.more
		_, err := city.Load(folder(files))
		require.ErrorContains(t, err, c.want, name)
		require.LessOrEqual(t, strings.Count(err.Error(), "\n"), 20, name)
	}
}
