package pds

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// At the reference a thousand names and a list of slurs stand in its code, on everybody's own domain. Here it is the operator's list.
func TestReservedNamesAreTheOperatorsOwn(t *testing.T) {
	t.Parallel()
	usual := newBed(t, func(c *Config) { c.ReservedNames = nil })
	assert.Equal(t, "HandleNotAvailable", usual.signUp("postmaster.test", usual.invite()).name(), "a short list where there is none")
	own := newBed(t, func(c *Config) { c.ReservedNames = []string{"mayor"} })
	assert.Equal(t, "HandleNotAvailable", own.signUp("mayor.test", own.invite()).name())
	own.ok(own.signUp("postmaster.test", own.invite()))
	none := newBed(t, func(c *Config) { c.ReservedNames = []string{} })
	none.ok(none.signUp("postmaster.test", none.invite()))
}

func TestReservedNamesAreReadOneALine(t *testing.T) {
	t.Parallel()
	names, err := ParseReservedNames("# a remark\nMayor  # and one behind\n\nadmin\r\nmayor\n")
	require.NoError(t, err)
	assert.Equal(t, []string{"admin", "mayor"}, names)
	for _, bad := range []string{"two words", "a.b", "-x", "ünicode"} {
		_, err := ParseReservedNames("ok\n" + bad)
		assert.ErrorContains(t, err, "line 2", bad)
	}
	assert.True(t, slices.IsSorted(DefaultReservedNames()))
	assert.Contains(t, DefaultReservedNames(), "xrpc")
}

func TestServerSaysWhoRunsIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	d := b.ok(b.get("", "com.atproto.server.describeServer"))
	assert.Equal(t, m{}, d.JSON["links"])
	assert.Equal(t, m{}, d.JSON["contact"])
	b = newBed(t, func(c *Config) {
		c.PrivacyURL, c.TermsURL, c.ContactEmail = "https://city.example/privacy", "https://city.example/terms", "pds@city.example"
	})
	d = b.ok(b.get("", "com.atproto.server.describeServer"))
	assert.Equal(t, m{"privacyPolicy": "https://city.example/privacy", "termsOfService": "https://city.example/terms"}, d.JSON["links"])
	assert.Equal(t, m{"email": "pds@city.example"}, d.JSON["contact"])
}
