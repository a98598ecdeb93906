//go:build e2e

package e2e

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/pds"
)

// TestOperatorWorksOnANarrowPhoneWithoutScript signs in for the first time, sets the second step up, and suspends an account and opens it again.
func TestOperatorWorksOnANarrowPhoneWithoutScript(t *testing.T) {
	h := newHome(t)
	first, err := pds.AddOperator(t.Context(), h.pool, "ada", pds.RoleAdministrator, h.clock.Now())
	require.NoError(t, err)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(h.url+"/admin"))
	stands(t, browser, "pds-admin-sign-in")
	do(t, browser, typed("name", "ada"), typed("password", first))
	press(t, browser, "main form button", ".qr")
	stands(t, browser, "pds-admin-setup")
	do(t, browser, typed("code", phone(t, see(t, browser, chromedp.Text(chromedp.CSS(".secret"))), h.clock.Now())))
	press(t, browser, "main form button", ".codes")
	stands(t, browser, "pds-admin-recovery")
	account := h.url + "/admin/accounts/" + h.did
	for _, lang := range []string{"en", "es"} {
		do(t, browser, chromedp.Navigate(h.url+"/admin?check=1&lang="+lang))
		stands(t, browser, "pds-admin-"+lang)
		for name, page := range map[string]string{
			"accounts": "/admin/accounts?q=mar", "nobody": "/admin/accounts?q=zz", "account": "/admin/accounts/" + h.did, "reports": "/admin/reports",
			"invites": "/admin/invites", "log": "/admin/log", "password": "/admin/password",
		} {
			do(t, browser, chromedp.Navigate(h.url+page))
			stands(t, browser, "pds-admin-"+name+"-"+lang)
		}
		do(t, browser, chromedp.Navigate(account), typed("ref", "case 12"))
		press(t, browser, `button[value="suspend"]`, `button[value="restore"]`)
		stands(t, browser, "pds-admin-suspended-"+lang)
		assert.Contains(t, see(t, browser, chromedp.Text(chromedp.CSS(".stop"))), "case 12")
		press(t, browser, `button[value="restore"]`, `button[value="suspend"]`)
		do(t, browser, typed("handle", "another.test"))
		press(t, browser, `button[value="delete"]`, "#wrong")
		stands(t, browser, "pds-admin-not-deleted-"+lang)
	}
}
