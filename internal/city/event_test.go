package city_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/city"
)

// Golden vector 5, as far as the data says it.
func TestEventOfBerkeley(t *testing.T) {
	t.Parallel()
	folder, err := city.EventFolder("berkeley-event")
	require.NoError(t, err)
	e, err := city.LoadEvent(folder)
	require.NoError(t, err)
	credits, slots := e.Planned()
	assert.Equal(t, [4]int64{17_000, 11_900, 11_488, 432}, [4]int64{e.Capacity(), e.Cap(), credits, slots})
	assert.Equal(t, "Block by Block", e.Title)
	assert.Len(t, e.KPIs, 5)
	assert.Equal(t, "2027-06-14T00:00:00-07:00", e.RedeemUntil.Format(time.RFC3339))
	standby := map[string]int64{}
	for _, task := range e.Tasks {
		if task.Standby > 0 {
			standby[task.ID] = task.Standby
		}
	}
	assert.Equal(t, map[string]int64{"PW-2": 2, "TR-1": 10}, standby, "floor(slots × bps ÷ 10 000)")

	c := load(t, "berkeley")
	for _, task := range e.Tasks {
		tier, ok := c.Params.Tier(task.Tier)
		require.True(t, ok)
		assert.True(t, tier.InBand(task.Credits, task.Minutes), task.ID)
	}
}

func TestEventFolderFaultsAreNamedWithTheirPlace(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"event.csv":    "key,value\ntitle,Day\ngoal,Clean\nsymbol,$E\nstartsAt,2027-05-15T08:00:00-07:00\nendsAt,2027-05-16T20:00:00-07:00\nredeemUntil,2027-06-14T00:00:00-07:00\n",
		"sponsors.csv": "id,title,units,cost\nC,Coffee,4,10\n",
		"tasks.csv":    "id,issuerRole,title,tier,hours,credits,slots,standbyBps\nP,parks,Pick,1,2,16,4,0\n",
	}
	_, err := city.LoadEvent(folder(good))
	require.NoError(t, err)
	for want, edit := range map[string][2]string{
		"event.csv:5: BadDate":      {"event.csv", "key,value\ntitle,Day\ngoal,Clean\nsymbol,$E\nstartsAt,soon\nendsAt,2027-05-16T20:00:00-07:00\nredeemUntil,2027-06-14T00:00:00-07:00\n"},
		"event.csv: MissingValue":   {"event.csv", "key,value\ntitle,Day\n"},
		"sponsors.csv:2: BadValue":  {"sponsors.csv", "id,title,units,cost\nC,Coffee,0,10\n"},
		"sponsors.csv:3: Duplicate": {"sponsors.csv", "id,title,units,cost\nC,Coffee,4,10\nC,Coffee,4,10\n"},
		"tasks.csv:2: BadValue":     {"tasks.csv", "id,issuerRole,title,tier,hours,credits,slots,standbyBps\nP,parks,Pick,1,2,16,4,20000\n"},
	} {
		files := map[string]string{}
		for name, text := range good {
			files[name] = text
		}
		files[edit[0]] = edit[1]
		_, err := city.LoadEvent(folder(files))
		assert.ErrorContains(t, err, want)
	}
	_, err = city.EventFolder(filepath.Join(os.TempDir(), "no such event"))
	assert.ErrorContains(t, err, "UnknownEvent")
}
