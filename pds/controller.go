package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// Several people act for one organization, each with an account of their own and in a role
// that its owner chose. A controller must have accepted, and is asked for in the transaction
// of each write, under a lock that an end of the role waits for: once removeController is
// answered, nothing of that controller is committed any more.

// maxControllers bounds who acts for one account.
const maxControllers = 50

// controller is one who acts, or is invited to act, for an account.
type controller struct {
	DID        syntax.DID // of the account
	Controller syntax.DID
	Role       string
	Scope      string // of a custom role
	Mark       string
	Invited    time.Time
	Accepted   *time.Time
}

const selectController = `select c.did, c.controller, c.role, c.scope, c.mark, c.invited, c.accepted from controller c `

// may is what the role allows now. A custom role whose words are not known any more allows nothing.
func (c *controller) may() *scope.Set {
	set, err := scope.RoleOf(c.Role, c.Scope, lexicons.PermissionSetOf)
	if err != nil {
		return &scope.Set{}
	}
	return set
}

func (s *Server) controllerRows(ctx context.Context, sql string, args ...any) ([]controller, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("find controllers: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[controller])
	if err != nil {
		return nil, fmt.Errorf("find controllers: %w", err)
	}
	return list, nil
}

// actsFor finds in which role somebody acts for an account now. One whose own account here was
// taken down or suspended acts for nobody.
func (s *Server) actsFor(ctx context.Context, account, actor syntax.DID) (*controller, error) {
	list, err := s.controllerRows(ctx, selectController+`
		where c.did = $1 and c.controller = $2 and c.accepted is not null
		and not exists (select from account a where a.did = c.controller and a.status not in ('active', 'deactivated'))`, account, actor)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errNotController(account)
	}
	return &list[0], nil
}

func errNotController(account syntax.DID) error {
	return xrpc.Errorf(http.StatusForbidden, "NotController", "the caller does not act for %s", account)
}

// controlled is an account that a person may act for, as the consent page offers it.
type controlled struct {
	DID    syntax.DID
	Handle string
	Role   string
	Scope  *scope.Set
}

// actAs lists the accounts that a person may act for now. An account that is not active is left out.
func (s *Server) actAs(ctx context.Context, person syntax.DID) ([]controlled, error) {
	list, err := s.roles(ctx, person)
	if err != nil {
		return nil, err
	}
	var out []controlled
	for _, r := range list {
		if r.Accepted != nil && r.Status == statusActive {
			out = append(out, controlled{DID: r.DID, Handle: r.Handle, Role: r.Role, Scope: r.may()})
		}
	}
	return out, nil
}

// ownRole is a person's role for an account, with the account's name.
type ownRole struct {
	controller
	Handle string
	Status string
}

// roles lists the accounts that a person acts for or is invited to act for.
func (s *Server) roles(ctx context.Context, person syntax.DID) ([]ownRole, error) {
	const find = `
		select c.did, c.controller, c.role, c.scope, c.mark, c.invited, c.accepted, a.handle, a.status
		from controller c join account a using (did)
		where c.controller = $1 order by a.handle limit 500`
	rows, err := s.pool.Query(ctx, find, person)
	if err != nil {
		return nil, fmt.Errorf("roles of %s: %w", person, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[ownRole])
	if err != nil {
		return nil, fmt.Errorf("roles of %s: %w", person, err)
	}
	return list, nil
}

// controllers lists who acts or is invited to act for an account.
func (s *Server) controllers(ctx context.Context, account syntax.DID) ([]controller, error) {
	return s.controllerRows(ctx, selectController+`where c.did = $1 order by c.invited, c.controller`, account)
}

// handles names those of the DIDs whose accounts are here.
func (s *Server) handles(ctx context.Context, dids []syntax.DID) (map[syntax.DID]string, error) {
	rows, err := s.pool.Query(ctx, `select did, handle from account where did = any($1::text[])`, dids)
	if err != nil {
		return nil, fmt.Errorf("find handles: %w", err)
	}
	out := make(map[syntax.DID]string, len(dids))
	var did syntax.DID
	var handle string
	if _, err := pgx.ForEachRow(rows, []any{&did, &handle}, func() error {
		out[did] = handle
		return nil
	}); err != nil {
		return nil, fmt.Errorf("find handles: %w", err)
	}
	return out, nil
}

// named finds the DID of somebody who is named by DID or handle.
func (s *Server) named(ctx context.Context, who string) (syntax.DID, error) {
	id, err := syntax.ParseAtIdentifier(who)
	if err != nil {
		return "", invalid("%.200q is neither a DID nor a handle", who)
	}
	acc, err := s.findAccount(ctx, who)
	if err == nil {
		return acc.DID, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return "", err
	}
	if id.IsDID() {
		did, err := id.AsDID()
		if err != nil {
			return "", invalid("%.200q is not a DID", who)
		}
		if _, err := s.directory.LookupDID(ctx, did); err != nil {
			return "", refused("DidNotFound", "%s was not found", did)
		}
		return did, nil
	}
	h, err := id.AsHandle()
	if err != nil {
		return "", invalid("%.200q is not a handle", who)
	}
	ident, err := s.directory.LookupHandle(ctx, h)
	if err != nil {
		return "", refused("HandleNotFound", "nobody was found by the handle %s", h)
	}
	return ident.DID, nil
}

// offerRole invites somebody to a role, or changes it. One who accepted keeps acting while the new role gives
// no more than the old one; more of it must be accepted anew.
func (s *Server) offerRole(ctx context.Context, a *authority, person syntax.DID, role, custom string) (*controller, error) {
	may, err := scope.RoleOf(role, custom, lexicons.PermissionSetOf)
	if err != nil {
		return nil, refused("InvalidRole", "%v", err)
	}
	if role != scope.RoleCustom {
		custom = ""
	} else {
		custom = may.String()
	}
	if person == a.Account.DID {
		return nil, refused("InvalidController", "an account needs no role to act for itself")
	}
	now := s.clock.Now()
	row := controller{DID: a.Account.DID, Controller: person, Role: role, Scope: custom, Mark: randomID(15), Invited: now}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		// The account's row is the queue of all who change its controllers.
		if _, err := tx.Exec(ctx, `select from account where did = $1 for no key update`, row.DID); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, selectController+`where c.did = $1 for update`, row.DID)
		if err != nil {
			return err
		}
		there, err := pgx.CollectRows(rows, pgx.RowToStructByName[controller])
		if err != nil {
			return err
		}
		known := false
		for _, old := range there {
			if old.Controller != person {
				continue
			}
			known = true
			if may.Within(old.may()).String() == may.String() {
				row.Invited, row.Accepted = old.Invited, old.Accepted
			}
		}
		if !known && len(there) >= maxControllers {
			return refused("TooManyControllers", "at most %d people act for one account", maxControllers)
		}
		if !known { // endRole may have been cut short before it ended the apps of an earlier role
			if _, err := tx.Exec(ctx, `delete from oauth_session where did = $1 and actor = $2`, row.DID, person); err != nil {
				return err
			}
		}
		const put = `
			insert into controller (did, controller, role, scope, mark, invited, accepted)
			values (@did, @controller, @role, @scope, @mark, @invited, @accepted)
			on conflict (did, controller) do update set role = excluded.role, scope = excluded.scope,
				mark = excluded.mark, invited = excluded.invited, accepted = excluded.accepted`
		_, err = tx.Exec(ctx, put, pgx.NamedArgs{
			"did": row.DID, "controller": row.Controller, "role": row.Role, "scope": row.Scope,
			"mark": row.Mark, "invited": row.Invited, "accepted": row.Accepted,
		})
		if err != nil {
			return err
		}
		return logChange(ctx, tx, act{
			DID: row.DID, Actor: &a.Actor, Client: a.Client, Method: a.Method, Action: "invite", Path: role, Subject: &person, At: now,
		})
	})
	if err != nil {
		return nil, wrapUnlessShown(err, "invite to act for %s", row.DID)
	}
	return &row, nil
}

// acceptRole is the person's own yes. Said twice it changes nothing.
func (s *Server) acceptRole(ctx context.Context, account, person syntax.DID, method string) error {
	now := s.clock.Now()
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		const find = selectController + `where c.did = $1 and c.controller = $2 for update`
		rows, err := tx.Query(ctx, find, account, person)
		if err != nil {
			return err
		}
		row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[controller])
		if errors.Is(err, pgx.ErrNoRows) {
			return refused("NotInvited", "there is no invitation to act for %s", account)
		}
		if err != nil || row.Accepted != nil {
			return err
		}
		const yes = `update controller set accepted = $3 where did = $1 and controller = $2`
		if _, err := tx.Exec(ctx, yes, account, person, now); err != nil {
			return err
		}
		return logChange(ctx, tx, act{DID: account, Actor: &person, Method: method, Action: "accept", Path: row.Role, Subject: &person, At: now})
	})
	if err != nil {
		return wrapUnlessShown(err, "accept to act for %s", account)
	}
	return nil
}

// endRole ends a role or an invitation. The row's lock is shared by every write under way in
// that role: when this returns, those are committed or refused, and no other comes (see
// lockRepo).
func (s *Server) endRole(ctx context.Context, account, person, by syntax.DID, method string) error {
	now := s.clock.Now()
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `delete from controller where did = $1 and controller = $2`, account, person)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return refused("NotController", "nobody of that name acts for %s", account)
		}
		// They open nothing any more, and must not again when the role is given anew.
		for _, table := range []string{"oauth_request", "oauth_session"} {
			if _, err := tx.Exec(ctx, `delete from `+table+` where did = $1 and actor = $2`, account, person); err != nil {
				return err
			}
		}
		return logChange(ctx, tx, act{DID: account, Actor: &by, Method: method, Action: "remove", Subject: &person, At: now})
	})
	if err != nil {
		return wrapUnlessShown(err, "end a role for %s", account)
	}
	crash.Point("pds/controller/removed")
	return nil
}
