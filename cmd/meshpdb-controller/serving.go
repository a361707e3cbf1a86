package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// modern refuses what is older than TLS 1.3: API servers and Prometheus have spoken it for years.
func modern(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }

func (o *options) webhookOptions() (webhook.Options, error) {
	host, port, err := o.webhookAddress()
	return webhook.Options{Host: host, Port: port, CertDir: o.webhookCerts, TLSOpts: []func(*tls.Config){modern}}, err
}

// metricsOptions serve metrics as Kubernetes' own components do: to whom the API server lets get /metrics, by the
// certificate of the webhooks. They name budgets, namespaces and peers.
func (o *options) metricsOptions() metricsserver.Options {
	if !o.metricsSecure {
		return metricsserver.Options{BindAddress: o.metrics}
	}
	return metricsserver.Options{
		BindAddress: o.metrics, SecureServing: true, CertDir: o.webhookCerts, TLSOpts: []func(*tls.Config){modern},
		FilterProvider: reviewed,
	}
}

// reviewTimeout bounds both questions about one scrape.
const reviewTimeout = 5 * time.Second

// reviewed lets requests pass whose token the API server knows, and whom it lets get the path: TokenReview and
// SubjectAccessReview, as Kubernetes' own components ask. controller-runtime's filter does the same; it is not used
// because it brings the libraries of a whole API server along.
func reviewed(config *rest.Config, client *http.Client) (metricsserver.Filter, error) {
	clients, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	return func(log logr.Logger, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
			defer cancel()
			code, err := review(ctx, clients, r)
			if err != nil {
				log.Error(err, "review a request for metrics")
			}
			if code != http.StatusOK {
				http.Error(w, http.StatusText(code), code)
				return
			}
			next.ServeHTTP(w, r)
		}), nil
	}, nil
}

// review returns the HTTP status that a request deserves; only 200 lets it pass.
func review(ctx context.Context, clients kubernetes.Interface, r *http.Request) (int, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return http.StatusUnauthorized, nil
	}
	who := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	who, err := clients.AuthenticationV1().TokenReviews().Create(ctx, who, metav1.CreateOptions{})
	if err != nil {
		return http.StatusInternalServerError, fmt.Errorf("review token: %w", err)
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user := who.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for key, value := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	may := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)},
	}}
	may, err = clients.AuthorizationV1().SubjectAccessReviews().Create(ctx, may, metav1.CreateOptions{})
	if err != nil {
		return http.StatusInternalServerError, fmt.Errorf("review access of %s: %w", user.Username, err)
	}
	if !may.Status.Allowed || may.Status.Denied {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
