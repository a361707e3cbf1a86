// Package flow says a decision in the words of Hubble: one L7 HTTP flow from
// who asked to what would be disrupted, for every answer of the webhooks.
//
// It is a picture, and an honest one within limits. The request went to the API
// server and never to the pod, so ports are absent and TCP stands for "not
// known"; admission sees neither the caller's address nor his headers, so there
// are none but the authenticated user's name. FORWARDED says "admitted", not
// "the pod is gone".
//
// It imports Cilium's api/v1/flow and nothing else of Cilium, which keeps it
// light, and takes the time as a value.
package flow
