// The service worker: after the first visit the page works offline. A new build waits until the last tab with the old one is
// closed, so that none gets files of both.

const OURS = `mirnet ${self.registration.scope} `; // other copies of the page may be on this origin
const CACHE = OURS + VERSION; // eslint-disable-line -- VERSION and FILES come from the build

self.addEventListener("install", (event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(["./", ...FILES].map((file) => new Request(file, {cache: "no-cache"})));
  })());
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name.startsWith(OURS) && name !== CACHE) await caches.delete(name);
  })());
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith((async () => {
    const cache = await caches.open(CACHE);
    return await cache.match(event.request, {ignoreSearch: true}) ?? fetch(event.request);
  })());
});
