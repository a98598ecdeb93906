package pds

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPeopleAreInvitedAcceptAndAreLetGoOnTheirPages(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	org, ann := b.account("library"), b.account("ann")
	library, person := org.visitor(), ann.visitor()
	path := org.path() + "/people"
	invite := func(name, role, password string) shown {
		return library.fill(path, "do", "invite", "name", name, "role", role, "password", password)
	}
	assert.Contains(t, library.open(path).HTML, "Nobody else acts for this account.")
	assert.Contains(t, invite(ann.Handle, "coordinator", "wrong password").says(), "not right")
	assert.Contains(t, invite("nobody at all", "coordinator", password).says(), "Nobody was found")
	assert.Contains(t, invite(org.Handle, "coordinator", password).says(), "no role for itself")
	assert.Equal(t, http.StatusBadRequest, invite(ann.Handle, "custom", password).Status)
	p := invite("@"+ann.Handle, "coordinator", password)
	require.Contains(t, library.open(p.To()).says(), "invitation stands")
	assert.Contains(t, library.open(path).HTML, "has not answered yet")

	own := person.open(ann.path() + "/people")
	assert.Contains(t, own.HTML, "You are invited.")
	p = person.fill(ann.path()+"/people", "do", "accept", "who", org.DID.String())
	require.Contains(t, person.open(p.To()).says(), "may now act")
	page := library.open(path)
	assert.Contains(t, page.HTML, "since 20 November 2026")
	assert.Contains(t, page.HTML, "<strong>ann.test</strong> accepted the role of coordinator")

	app := b.program("atproto include:org.city-sync.authOrganization")
	token := app.Exchange(person.answerFor(app.Push(), ann, org, "include:org.city-sync.authOrganization").To())["access_token"].(string)
	require.True(t, b.opens(app, token))
	stranger := b.account("stranger")
	stranger.visitor().fill(stranger.path()+"/people", "do", "end", "who", ann.DID.String())
	require.True(t, b.opens(app, token), "nobody ends a role elsewhere")
	p = library.fill(path, "do", "end", "who", ann.DID.String())
	require.Contains(t, library.open(p.To()).says(), "The role is ended")
	assert.False(t, b.opens(app, token))
	assert.Contains(t, library.open(library.fill(path, "do", "end", "who", ann.DID.String()).To()).says(), "ended already")
	assert.NotContains(t, library.open(org.path()+"/apps").HTML, ann.DID.String(), "what it let in is gone with it")

	invite(ann.Handle, "editor", password)
	person.fill(ann.path()+"/people", "do", "accept", "who", org.DID.String())
	assert.False(t, b.opens(app, token), "nor does it come back with a new role")
	p = person.fill(ann.path()+"/people", "do", "leave", "who", org.DID.String())
	assert.Contains(t, person.open(p.To()).says(), "ended")
	assert.Contains(t, library.open(path).HTML, "Nobody else acts for this account.")
}
