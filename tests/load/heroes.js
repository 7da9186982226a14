// Users for k6, who browse, read, create, change and delete; README.md says how to start it.
import { check, sleep } from 'k6';
import http from 'k6/http';

const HOST = __ENV.HOST || 'http://127.0.0.1:8000';
const USERS = Number(__ENV.USERS || 100);
const SECONDS = Number(__ENV.SECONDS || 60);
const P99 = Number(__ENV.P99 || 500); // milliseconds that 99 of 100 reads may take
const PAGES = 3;

const third = `${Math.round(SECONDS / 3)}s`;
const spike = {
  executor: 'ramping-vus',
  startVUs: Math.ceil(USERS / 10),
  stages: [
    { duration: third, target: Math.ceil(USERS / 10) },
    { duration: '1s', target: USERS },
    { duration: third, target: USERS },
    { duration: '1s', target: Math.ceil(USERS / 10) },
    { duration: third, target: Math.ceil(USERS / 10) },
  ],
  gracefulStop: '15s',
};
const steady = { executor: 'constant-vus', vus: USERS, duration: `${SECONDS}s`, gracefulStop: '15s' };

export const options = {
  scenarios: { users: __ENV.SPIKE ? spike : steady },
  // One wrong answer is one too many; a 503 is allowed for, at a spike, in one of a hundred.
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate<0.01'],
    'http_req_duration{kind:read}': [`p(99)<${P99}`],
    'http_req_duration{kind:write}': [`p(99)<${2 * P99}`],
  },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

// Returns the answer, after as many 503 as it takes; each is counted in http_req_failed.
function ask(method, path, body, status = 200) {
  for (;;) {
    const answer = http.request(method, HOST + path, body ? JSON.stringify(body) : null, {
      headers: { 'Content-Type': 'application/json' },
      responseCallback: http.expectedStatuses(status),
      tags: {
        name: path.replace(/\d+/g, '[n]'),
        kind: method === 'GET' ? 'read' : 'write',
      },
    });
    const wait = Number(answer.headers['Retry-After']);
    if (answer.status !== 503 || !wait) {
      check(answer, { 'the status is the expected one': (it) => it.status === status });
      return answer;
    }
    sleep(wait + Math.random());
  }
}

function read(hero) {
  const answer = ask('GET', `/heroes/${hero.id}`);
  check(answer, { 'a hero is read as it was written': (it) => same(it.json(), hero) });
}

function same(one, other) {
  return ['id', 'name', 'age', 'secret_name'].every((key) => one[key] === other[key]);
}

function browse() {
  let path = `/heroes/?limit=20&after=${Math.floor(Math.random() * 10000)}`;
  for (let page = 0; page < PAGES && path; page += 1) {
    const answer = ask('GET', path);
    const heroes = answer.json();
    check(heroes, {
      'a page is in the order of ids': (them) => them.every((it, n) => !n || it.id > them[n - 1].id),
    });
    // Those of other users are changed and deleted at any moment.
    const stable = heroes.filter((hero) => !hero.name.startsWith('Visitor'));
    if (stable.length) read(stable[Math.floor(Math.random() * stable.length)]);
    const link = /<([^>]*)>; rel="next"/.exec(answer.headers.Link || '');
    path = link && link[1];
    sleep(Math.random());
  }
}

function work() {
  const wanted = { name: `Visitor ${__VU}`, age: 30, secret_name: '?' };
  const hero = ask('POST', '/heroes/', wanted).json();
  check(hero, { 'a hero is stored as it was sent': (it) => same(it, { ...wanted, id: it.id }) });
  const path = `/heroes/${hero.id}`;
  const changed = ask('PATCH', path, { age: 31 }).json();
  check(changed, { 'one field is changed, and no other': (it) => same(it, { ...hero, age: 31 }) });
  read(changed);
  ask('DELETE', path);
  ask('GET', path, null, 404);
}

export default function user() {
  browse();
  if (Math.random() < 0.3) work();
  sleep(Math.random());
}
