"""Facts for practice: asked in text and in speech, answered in speech, never tested.

They are what a text LLM knows about the forms and the order of words, and what it answers with a word that many
questions share (continents, colors): with such a family, a guess is right too often to test anything. No question here
is one of a tested family about the same subject.
"""

from mossrepro.data.fact_tables import table

PAST_TENSES = table(
    "walk:walked,talk:talked,jump:jumped,play:played,work:worked,call:called,look:looked,help:helped,want:wanted,"
    "need:needed,turn:turned,visit:visited,cook:cooked,dance:danced,smile:smiled,live:lived,hope:hoped,study:studied,"
    "carry:carried,try:tried,plan:planned,go:went,see:saw,come:came,make:made,know:knew,think:thought,find:found,"
    "tell:told,feel:felt,bring:brought,write:wrote,run:ran,sing:sang,swim:swam,drink:drank,eat:ate,drive:drove,"
    "ride:rode,break:broke,speak:spoke,choose:chose,sleep:slept,keep:kept,meet:met,sit:sat,stand:stood,pay:paid,"
    "teach:taught,catch:caught,fight:fought,hear:heard,hold:held,fly:flew,grow:grew,throw:threw,draw:drew,"
    "build:built,send:sent,spend:spent,fall:fell,wear:wore,wake:woke,hide:hid,bite:bit,shake:shook,steal:stole,"
    "sink:sank,blow:blew"
)

COMPARATIVES = table(
    "tall:taller,warm:warmer,cool:cooler,kind:kinder,smart:smarter,funny:funnier,nice:nicer,large:larger,new:newer,"
    "great:greater,simple:simpler,safe:safer,big:bigger,small:smaller,fast:faster,slow:slower,old:older,"
    "young:younger,cold:colder,hot:hotter,hard:harder,soft:softer,long:longer,short:shorter,strong:stronger,"
    "weak:weaker,rich:richer,poor:poorer,happy:happier,easy:easier,early:earlier,heavy:heavier,light:lighter,"
    "dark:darker,clean:cleaner,dirty:dirtier,deep:deeper,wide:wider,loud:louder,quiet:quieter,brave:braver,"
    "cheap:cheaper,thick:thicker,thin:thinner,sweet:sweeter"
)

MORE_PLURALS = table(
    "dog:dogs,horse:horses,bird:birds,tree:trees,book:books,table:tables,chair:chairs,car:cars,apple:apples,"
    "flower:flowers,river:rivers,mountain:mountains,friend:friends,teacher:teachers,student:students,doctor:doctors,"
    "garden:gardens,window:windows,door:doors,street:streets,school:schools,letter:letters,pencil:pencils,hand:hands,"
    "eye:eyes,ear:ears,finger:fingers,cow:cows,pig:pigs,egg:eggs,cup:cups,plate:plates,brush:brushes,bench:benches,"
    "peach:peaches,beach:beaches,class:classes,dress:dresses,fly:flies,berry:berries,cherry:cherries,army:armies,"
    "copy:copies,toy:toys,boy:boys,key:keys,monkey:monkeys,loaf:loaves,calf:calves,scarf:scarves,piano:pianos,"
    "photo:photos,radio:radios,zebra:zebras,lion:lions,tiger:tigers,bear:bears,rabbit:rabbits,song:songs,star:stars,"
    "planet:planets,ship:ships,train:trains,bridge:bridges,village:villages,island:islands,forest:forests,"
    "nurse:nurses,farmer:farmers,bottle:bottles,candle:candles,mirror:mirrors"
)

PARTICIPLES = table(
    "walk:walking,run:running,sing:singing,swim:swimming,write:writing,read:reading,eat:eating,sleep:sleeping,"
    "drive:driving,fly:flying,make:making,come:coming,go:going,play:playing,work:working,think:thinking,"
    "speak:speaking,dance:dancing,sit:sitting,stand:standing,fight:fighting,cook:cooking,build:building,"
    "learn:learning,teach:teaching,cut:cutting,fall:falling,grow:growing,hide:hiding,jump:jumping,kick:kicking,"
    "listen:listening,paint:painting,watch:watching"
)

# The next tables ask for knowledge, not only for word forms. In the first two the answer keeps the subject's stem.
MORE_CAPITALS = table(
    "Mexico:Mexico City,Algeria:Algiers,Tunisia:Tunis,Panama:Panama City,Indiana:Indianapolis,Oklahoma:Oklahoma City,"
    "Kuwait:Kuwait City,Guatemala:Guatemala City,Luxembourg:Luxembourg,Singapore:Singapore,San Marino:San Marino"
)

MORE_OPPOSITES = table(
    "male:female,inside:outside,increase:decrease,import:export,maximum:minimum,sunrise:sunset,visible:invisible,"
    "possible:impossible,passive:active,internal:external,interior:exterior,include:exclude,majority:minority,"
    "superior:inferior,useful:useless,correct:incorrect,direct:indirect,known:unknown,likely:unlikely,lucky:unlucky,"
    "pleasant:unpleasant,stable:unstable,able:unable,connect:disconnect,formal:informal,mature:immature,"
    "mortal:immortal,pure:impure,rational:irrational,responsible:irresponsible,sane:insane,employed:unemployed,"
    "familiar:unfamiliar,grandfather:grandmother,predecessor:successor,input:output,offense:defense,"
    "maximize:minimize,explicit:implicit,introvert:extrovert,convex:concave,fiction:nonfiction,prefix:suffix,"
    "numerator:denominator,forward:backward,inhale:exhale,lock:unlock,tie:untie,agree:disagree,appear:disappear,"
    "ascend:descend,inflate:deflate,finite:infinite,objective:subjective,optimist:pessimist,employer:employee,"
    "hardware:software,northern:southern,careful:careless"
)

MORE_LANGUAGES = table(
    "Brazil:Portuguese,Mexico:Spanish,Argentina:Spanish,Australia:English,Canada:English,Cuba:Spanish,Chile:Spanish,"
    "Iraq:Arabic,India:Hindi,Jordan:Arabic,Colombia:Spanish,England:English,Bolivia:Spanish,Ecuador:Spanish,"
    "Uruguay:Spanish,Morocco:Arabic,Algeria:Arabic,Tunisia:Arabic,Jamaica:English,Saudi Arabia:Arabic,Panama:Spanish,"
    "Latvia:Latvian,Georgia:Georgian,Laos:Lao,Hawaii:Hawaiian,Honduras:Spanish,Guatemala:Spanish,Austria:German,"
    "Venezuela:Spanish,Peru:Spanish,Paraguay:Spanish,Lebanon:Arabic,Syria:Arabic,Ireland:English"
)

KINDS = table(
    "rose:flower,tulip:flower,hammer:tool,wrench:tool,shovel:tool,drill:tool,piano:instrument,violin:instrument,"
    "flute:instrument,guitar:instrument,trumpet:instrument,drum:instrument,salmon:fish,tuna:fish,trout:fish,"
    "goldfish:fish,sparrow:bird,hawk:bird,pigeon:bird,cabbage:vegetable,broccoli:vegetable,banana:fruit,pear:fruit,"
    "grape:fruit,lemon:fruit,mango:fruit,cherry:fruit,peach:fruit,strawberry:fruit,jacket:clothing,chair:furniture,"
    "sofa:furniture,pine:tree,palm:tree,truck:vehicle,car:vehicle,motorcycle:vehicle,spoon:utensil,tennis:sport,"
    "football:sport,soccer:sport,basketball:sport,hockey:sport,copper:metal,silver:metal,helium:gas,chess:game,"
    "poker:game,waltz:dance,red:color,blue:color,purple:color,Monday:day,Friday:day,Latin:language,Mars:planet,"
    "Saturn:planet,Venus:planet,Texas:state,Ohio:state,Nile:river,Atlantic:ocean,Africa:continent,Europe:continent,"
    "hurricane:storm,poodle:dog,terrier:dog"
)

CURRENCIES = table(
    "Japan:yen,India:rupee,Mexico:peso,Russia:ruble,England:pound,America:dollar,Germany:euro,Turkey:lira,"
    "Thailand:baht,Israel:shekel,Canada:dollar,Australia:dollar,Korea:won,France:euro,Italy:euro,Egypt:pound,"
    "China:yuan,Brazil:real,Poland:zloty,Sweden:krona,Switzerland:franc,Spain:euro,Argentina:peso,Pakistan:rupee,"
    "Ireland:euro"
)

CONTINENTS = table(
    "Kenya:Africa,Brazil:South America,Canada:North America,India:Asia,Nigeria:Africa,Vietnam:Asia,Italy:Europe,"
    "China:Asia,Thailand:Asia,Peru:South America,Poland:Europe,Algeria:Africa,Uganda:Africa,Senegal:Africa,"
    "Colombia:South America,Greece:Europe,Ethiopia:Africa,Libya:Africa,Argentina:South America,Finland:Europe,"
    "Japan:Asia,Spain:Europe,Egypt:Africa,Chile:South America,Mexico:North America,Norway:Europe,Morocco:Africa,"
    "Pakistan:Asia"
)

COLORS = table(
    "grass:green,snow:white,blood:red,the sky:blue,a banana:yellow,coal:black,a carrot:orange,milk:white,a ruby:red,"
    "an emerald:green,a sapphire:blue,gold:yellow,chocolate:brown,a strawberry:red,a lemon:yellow,an elephant:gray,"
    "a raven:black,the ocean:blue,a pumpkin:orange,a flamingo:pink,an eggplant:purple,salt:white,a fire truck:red,"
    "a school bus:yellow,soil:brown,a polar bear:white,spinach:green"
)

_ORDERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty",
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday",
    "January February March April May June July August September October November December January",
)
FOLLOWERS = {word: after for order in _ORDERS for word, after in zip(order.split(), order.split()[1:], strict=False)}
