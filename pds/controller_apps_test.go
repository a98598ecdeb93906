package pds

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// granted notes an app that the person let in for the organization.
func (o *organization) granted() {
	o.t.Helper()
	_, err := o.pool.Exec(o.t.Context(), `
		insert into oauth_session (id, did, actor, client, client_key, client_name, client_uri, jkt, scope, device, code, seed, generation, created, rotated, expires, ends)
		select 'app', $1, $2, 'https://app.example.com/client.json', '', '', '', 'k', 'atproto', '', '\x01', '\x01', 1, $3, $3, $4, $4`, o.DID, o.person.DID, o.clock.Now(), o.clock.Now().Add(time.Hour))
	require.NoError(o.t, err)
}

// Who got hold of a person's password let an app in for the organization as well; it goes with the rest.
func TestAppsLetInForAnOrganizationEndWithThePersonsOwn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	s, person := b.server.Load(), o.person.DID
	for what, do := range map[string]func() error{
		"new password":                    func() error { return s.setPassword(t.Context(), person, password, nil) },
		"locked out":                      func() error { return s.lockOut(t.Context(), person) },
		"taken down":                      func() error { return s.takeDown(t.Context(), person, statusTakendown, "x") },
		"the organization's new password": func() error { return s.setPassword(t.Context(), o.DID, password, nil) },
	} {
		o.granted()
		require.NoError(t, do())
		assert.Zero(t, b.count(`select count(*) from oauth_session`), what)
		_, err := b.pool.Exec(t.Context(), `delete from oauth_session`)
		require.NoError(t, err)
	}
}

// What an app may do in a role ends in the role's own transaction: were the role given anew after a crash, the app would be let in again.
func TestEndOfARoleAndOfItsAppsIsOneStep(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	o.granted()
	other := b.held()
	_, err := other.Exec(t.Context(), `select from oauth_session where did = $1 for update`, o.DID)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		ended <- b.server.Load().endRole(context.Background(), o.DID, o.person.DID, o.DID, lexicons.PdsRemoveController)
	}()
	b.blocked(1)
	assert.Equal(t, 1, b.count(`select count(*) from controller`), "none of it has happened yet")
	require.NoError(t, other.Commit(t.Context()))
	require.NoError(t, <-ended)
	assert.Zero(t, b.count(`select count(*) from controller`)+b.count(`select count(*) from oauth_session`))
}
