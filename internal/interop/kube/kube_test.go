package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"

	"github.com/writ-attestation/writ/internal/interop/domain"
	"github.com/writ-attestation/writ/verifier/token"
)

// authentication is a file for kube-apiserver --authentication-config, as
// docs/operations.md shows it.
const authentication = `
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: https://dev.invalid
    audiences: [https://kubernetes.example]
  claimValidationRules:
  - expression: claims.ear_status == 'affirming'
    message: the node is not legitimate
  claimMappings:
    username:
      expression: "'writ:' + claims.sub"
    groups:
      expression: "['writ:nodes']"
`

const audience = "https://kubernetes.example"

// TestKubernetesAuthenticatesNodes: kube-apiserver's authenticator, configured as a
// cluster is, discovers the issuer and takes an exchanged token of a node as a user.
// Every other token it refuses: the node's own, one for another audience, by another
// key, or changed.
func TestKubernetesAuthenticatesNodes(t *testing.T) {
	d := domain.Start(t, `exchange_audiences = ["`+audience+`", "https://other.example"]`)
	a := authenticator(t, d)
	tok := d.Writ(t, "token", "--bearer", "--audience", audience)
	got, ok, err := a.AuthenticateToken(t.Context(), tok)
	if err != nil || !ok || !strings.HasPrefix(got.User.GetName(), "writ:spiffe://dev.invalid/node/") || len(got.User.GetGroups()) != 1 || got.User.GetGroups()[0] != "writ:nodes" {
		t.Fatalf("a node's bearer token: %+v, %v, %v", got, ok, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	foreign, err := token.IssueBearer(token.Bearer{Issuer: d.Issuer, Subject: "spiffe://dev.invalid/node/00", Audience: audience, IssuedAt: now, NotBefore: now, Expires: now + 60, ID: "1", Status: "affirming"}, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.LastIndexByte(tok, '.') + 10
	for name, bad := range map[string]string{
		"for another audience":      d.Writ(t, "token", "--bearer", "--audience", "https://other.example"),
		"the node's own token":      d.Token(t), // it wants a proof, which Kubernetes would not ask for
		"by another key":            foreign,
		"with a changed byte":       tok[:i] + strings.Replace("AB", tok[i:i+1], "", 1)[:1] + tok[i+1:],
		"cut off":                   tok[:i],
		"with another's payload":    strings.Join([]string{strings.Split(tok, ".")[0], strings.Split(foreign, ".")[1], strings.Split(tok, ".")[2]}, "."),
		"with a header of \"none\"": "eyJhbGciOiJub25lIn0." + strings.Split(tok, ".")[1] + ".",
	} {
		if got, ok, err := a.AuthenticateToken(t.Context(), bad); ok || err == nil && got != nil {
			t.Errorf("a token %s: taken as %+v", name, got)
		}
	}
}

// authenticator is what kube-apiserver makes of the configuration, once it has the
// issuer's keys.
func authenticator(t *testing.T, d *domain.Domain) oidc.AuthenticatorTokenWithHealthCheck {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	object, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(apiserver.SchemeGroupVersion), []byte(authentication))
	if err != nil {
		t.Fatal(err)
	}
	config := object.(*apiserver.AuthenticationConfiguration)
	if errs := validation.ValidateAuthenticationConfiguration(cel.NewDefaultCompiler(), config, nil); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	a, err := oidc.New(ctx, oidc.Options{JWTAuthenticator: config.JWT[0], Client: d.Client(), SupportedSigningAlgs: oidc.AllValidSigningAlgorithms()})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); a.HealthCheck() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the authenticator did not get the issuer's keys: %v", a.HealthCheck())
		}
	}
	return a
}
