package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

func (s *Server) identityRoutes(m *xrpc.Mux) {
	small := xrpc.MaxBody(smallBody)
	m.Query("com.atproto.identity.getRecommendedDidCredentials", s.getRecommendedDIDCredentials)
	m.Procedure("com.atproto.identity.requestPlcOperationSignature", s.requestPLCOperationSignature, small)
	m.Procedure("com.atproto.identity.signPlcOperation", s.signPLCOperation, small)
	m.Procedure("com.atproto.identity.submitPlcOperation", s.submitPLCOperation, small)
	m.Procedure("com.atproto.identity.updateHandle", s.updateHandle, small)
	m.Procedure(lexicons.PdsUpdateSigningKey, s.updateSigningKey, small)
	m.Query("com.atproto.identity.resolveHandle", s.resolveHandle)
}

// getRecommendedDIDCredentials is what the account's DID must say to be served here. It takes the place of reserveSigningKey, which would make and
// keep a key for whoever asks: an account may be made before its document names this server, and its key is asked for by its owner.
func (s *Server) getRecommendedDIDCredentials(c *xrpc.Call) (any, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	creds, err := s.credentialsOf(a.Account)
	if err != nil {
		return nil, err
	}
	op := creds.operation(creds.RotationKeys)
	return struct {
		RotationKeys        []string                    `json:"rotationKeys,omitempty"`
		AlsoKnownAs         []string                    `json:"alsoKnownAs"`
		VerificationMethods map[string]string           `json:"verificationMethods"`
		Services            map[string]identity.Service `json:"services"`
	}{op.RotationKeys, op.AlsoKnownAs, op.VerificationMethods, op.Services}, nil
}

// mayChangeIdentity is for what can give an account away: only its owner, with the password.
func (s *Server) mayChangeIdentity(c *xrpc.Call) (*account, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	if a.Account.DID.Method() != "plc" {
		return nil, refused("InvalidRequest", "%s has its document%s; nothing signs it here", a.Account.DID, whereWeb(a.Account.DID))
	}
	return a.Account, nil
}

// byMail says whether an account's operations are confirmed by a mailed code. Where no mail can come, the password given once more confirms them:
// an account must be able to leave.
func (s *Server) byMail(acc *account) bool { return acc.Email != nil && s.mail != nil }

func (s *Server) requestPLCOperationSignature(c *xrpc.Call) (any, error) {
	acc, err := s.mayChangeIdentity(c)
	if err != nil {
		return nil, err
	}
	if !s.byMail(acc) {
		return nil, refused("NoEmail", "no code can be mailed; give the account's password in the place of the code")
	}
	return nil, s.sendWord(c.Context(), acc, wordPLCOperation, letterPLCOperation)
}

// signPLCOperation signs the operation by which an account leaves, or changes its keys.
func (s *Server) signPLCOperation(c *xrpc.Call) (any, error) {
	acc, err := s.mayChangeIdentity(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Token               string                       `json:"token"`
		RotationKeys        *[]string                    `json:"rotationKeys"`
		AlsoKnownAs         *[]string                    `json:"alsoKnownAs"`
		VerificationMethods *map[string]string           `json:"verificationMethods"`
		Services            *map[string]identity.Service `json:"services"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.Token == "" {
		return nil, refused("InvalidToken", "the code sent by requestPlcOperationSignature is needed")
	}
	ctx := c.Context()
	last, err := s.lastOperation(ctx, acc.DID)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(last.RotationKeys, s.rotationDID) {
		return nil, errNotOurs(acc.DID)
	}
	if s.byMail(acc) {
		err = s.useWord(ctx, acc.DID, wordPLCOperation, in.Token)
	} else {
		_, err = s.ownerByPassword(ctx, c.W.Header(), s.ip(c.R), acc.DID.String(), in.Token)
	}
	if err != nil {
		return nil, err
	}
	op := last.Next()
	setIf(&op.RotationKeys, in.RotationKeys)
	setIf(&op.AlsoKnownAs, in.AlsoKnownAs)
	setIf(&op.VerificationMethods, in.VerificationMethods)
	setIf(&op.Services, in.Services)
	if err := op.Sign(s.rotation); err != nil {
		return nil, fmt.Errorf("sign operation of %s: %w", acc.DID, err)
	}
	s.log.Warn("operation signed for its owner", "did", acc.DID)
	return struct {
		Operation identity.Operation `json:"operation"`
	}{op}, nil
}

func setIf[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}

func errNotOurs(did syntax.DID) error {
	return refused("IncompatibleDidDoc", "this server's key is not among the rotation keys of %s; sign the operation with one of its own", did)
}

// submitPLCOperation hands on an operation that its owner, or the former host, signed. It must leave the account able to live here.
func (s *Server) submitPLCOperation(c *xrpc.Call) (any, error) {
	acc, err := s.mayChangeIdentity(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Operation *identity.Operation `json:"operation"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.Operation == nil || in.Operation.IsTombstone() {
		return nil, invalid("operation is no plc_operation")
	}
	creds, err := s.credentialsOf(acc)
	if err != nil {
		return nil, err
	}
	if err := creds.check(*in.Operation, s.rotationDID); err != nil {
		return nil, err
	}
	if err := s.submit(c.Context(), acc.DID, *in.Operation); err != nil {
		return nil, err
	}
	return nil, s.tellIdentity(c.Context(), acc.DID)
}

// check refuses an operation that would lose what this server needs.
func (c credentials) check(op identity.Operation, rotation string) error {
	svc := op.Services[serviceName]
	switch {
	case !slices.Contains(op.RotationKeys, rotation):
		return refused("InvalidRequest", "the rotation keys do not have this server's, %s", rotation)
	case svc.Type != serviceType:
		return refused("InvalidRequest", "the service %s is not of type %s", serviceName, serviceType)
	case svc.Endpoint != c.Endpoint:
		return refused("InvalidRequest", "the service %s is at %q, not at %s", serviceName, svc.Endpoint, c.Endpoint)
	case op.VerificationMethods[keyName] != c.Key:
		return refused("InvalidRequest", "the verification method %s is not the account's key, %s", keyName, c.Key)
	case len(op.AlsoKnownAs) == 0 || op.AlsoKnownAs[0] != "at://"+c.Handle:
		return refused("InvalidRequest", "the first of alsoKnownAs is not at://%s", c.Handle)
	}
	return nil
}

// submit hands an operation to the directory. A refusal is final for that operation, a 503 may pass.
func (s *Server) submit(ctx context.Context, did syntax.DID, op identity.Operation) error {
	err := s.plc.Submit(ctx, did, op)
	var no *identity.PLCError
	switch {
	case err == nil:
		return s.forget(ctx, did)
	case errors.As(err, &no) && no.Status < http.StatusInternalServerError:
		return refused("InvalidRequest", "the PLC directory refuses the operation: %s", no.Message)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	s.log.Warn("directory did not take an operation", "did", did, "error", err)
	return errDirectory("the PLC directory did not take the operation; send the same request again")
}

// forget lets the next look-up read the document anew.
func (s *Server) forget(ctx context.Context, did syntax.DID) error {
	if err := s.directory.Purge(ctx, did.AtIdentifier()); err != nil {
		return fmt.Errorf("purge %s: %w", did, err)
	}
	return nil
}

// tellIdentity announces that an account's document or handle has changed. Nobody hears of an account that is not open here, or was deleted
// meanwhile.
func (s *Server) tellIdentity(ctx context.Context, did syntax.DID) error {
	now := s.clock.Now()
	err := s.locked(ctx, did, func(tx pgx.Tx, _ repo.Head, status string) error {
		if status != statusActive {
			return nil
		}
		var handle string
		if err := tx.QueryRow(ctx, `select handle from account where did = $1`, did).Scan(&handle); err != nil {
			return err
		}
		return tell(ctx, tx, now, &firehose.Identity{DID: did, Handle: handle, Time: eventTime(now)})
	})
	if err != nil {
		return wrapUnlessShown(err, "tell identity of %s", did)
	}
	return nil
}

// withHandle is alsoKnownAs with the handle in the place of the one before; other names stay.
func withHandle(alsoKnownAs []string, handle string) []string {
	out := []string{"at://" + handle}
	for _, name := range alsoKnownAs {
		if !strings.HasPrefix(name, "at://") {
			out = append(out, name)
		}
	}
	return out
}
