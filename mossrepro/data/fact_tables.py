"""The facts that are asked in tests: our own tables of everyday knowledge, a dictionary from subject to answer each.

Which of them a backbone really knows is measured, not assumed (`StageGraph.known`). Subjects have at most four words,
answers one or two; letters and spaces only, so that they can be said. Facts for practice: `practice_tables.py`.
"""


def table(pairs: str) -> dict[str, str]:
    """One family of facts from "subject:answer,subject:answer". ValueError for a subject that stands there twice."""
    found = dict(pair.split(":") for pair in pairs.split(","))
    if len(found) != pairs.count(":"):
        raise ValueError(f"a subject stands twice among {pairs[:40]}...")
    return found


CAPITALS = table(
    "France:Paris,Germany:Berlin,Italy:Rome,Spain:Madrid,Japan:Tokyo,China:Beijing,Russia:Moscow,Egypt:Cairo,"
    "Greece:Athens,Portugal:Lisbon,Poland:Warsaw,Austria:Vienna,Hungary:Budapest,Ireland:Dublin,Norway:Oslo,"
    "Sweden:Stockholm,Finland:Helsinki,Denmark:Copenhagen,Belgium:Brussels,Cuba:Havana,Peru:Lima,Chile:Santiago,"
    "Thailand:Bangkok,India:New Delhi,Iran:Tehran,Iraq:Baghdad,Kenya:Nairobi,England:London,Canada:Ottawa,"
    "Ukraine:Kiev,Turkey:Ankara,Vietnam:Hanoi,Nepal:Kathmandu,Jordan:Amman,Lebanon:Beirut,Syria:Damascus,"
    "Argentina:Buenos Aires,Colombia:Bogota,Venezuela:Caracas,Ethiopia:Addis Ababa,Ghana:Accra,Morocco:Rabat,"
    "Libya:Tripoli,Bulgaria:Sofia,Romania:Bucharest,Serbia:Belgrade,Croatia:Zagreb,Iceland:Reykjavik,"
    "Indonesia:Jakarta,Malaysia:Kuala Lumpur,Mongolia:Ulaanbaatar,Jamaica:Kingston,Uganda:Kampala,Zimbabwe:Harare,"
    "Afghanistan:Kabul,Cambodia:Phnom Penh,Philippines:Manila,Scotland:Edinburgh,Wales:Cardiff,Australia:Canberra,"
    "Brazil:Brasilia,Pakistan:Islamabad,Bangladesh:Dhaka,Ecuador:Quito,Uruguay:Montevideo,Bolivia:La Paz,"
    "Switzerland:Bern,Netherlands:Amsterdam,South Korea:Seoul,Israel:Jerusalem,Nigeria:Abuja,Senegal:Dakar,"
    "Qatar:Doha,Texas:Austin,Hawaii:Honolulu,Tennessee:Nashville,Massachusetts:Boston,Arizona:Phoenix,Ohio:Columbus,"
    "Virginia:Richmond,Mississippi:Jackson,Taiwan:Taipei,Catalonia:Barcelona,Saudi Arabia:Riyadh,Nicaragua:Managua,"
    "New Zealand:Wellington,Slovakia:Bratislava,Slovenia:Ljubljana,Estonia:Tallinn,Latvia:Riga,Lithuania:Vilnius,"
    "Belarus:Minsk,Armenia:Yerevan,Azerbaijan:Baku,Kazakhstan:Astana,Uzbekistan:Tashkent,Kyrgyzstan:Bishkek,"
    "Tajikistan:Dushanbe,Sri Lanka:Colombo,Laos:Vientiane,North Korea:Pyongyang,Bhutan:Thimphu,Bahrain:Manama,"
    "Oman:Muscat,Cyprus:Nicosia,Malta:Valletta,Albania:Tirana,Bosnia:Sarajevo,Macedonia:Skopje,Moldova:Chisinau,"
    "Sudan:Khartoum,Somalia:Mogadishu,Tanzania:Dodoma,Rwanda:Kigali,Zambia:Lusaka,Malawi:Lilongwe,Mozambique:Maputo,"
    "Angola:Luanda,Namibia:Windhoek,Botswana:Gaborone,South Africa:Pretoria,Madagascar:Antananarivo,Mali:Bamako,"
    "Niger:Niamey,Cameroon:Yaounde,Gabon:Libreville,Liberia:Monrovia,Sierra Leone:Freetown,Gambia:Banjul,Togo:Lome,"
    "Eritrea:Asmara,Honduras:Tegucigalpa,Costa Rica:San Jose,Bahamas:Nassau,Barbados:Bridgetown,Guyana:Georgetown,"
    "Suriname:Paramaribo,Paraguay:Asuncion,Fiji:Suva,Greenland:Nuuk,Tibet:Lhasa,Northern Ireland:Belfast,"
    "Sicily:Palermo,California:Sacramento,Florida:Tallahassee,Colorado:Denver,Nevada:Carson City,Oregon:Salem,"
    "Idaho:Boise,Montana:Helena,Wyoming:Cheyenne,New Mexico:Santa Fe,Kansas:Topeka,Nebraska:Lincoln,Iowa:Des Moines,"
    "Minnesota:Saint Paul,Wisconsin:Madison,Illinois:Springfield,Michigan:Lansing,Missouri:Jefferson City,"
    "Arkansas:Little Rock,Louisiana:Baton Rouge,Alabama:Montgomery,South Carolina:Columbia,North Carolina:Raleigh,"
    "Kentucky:Frankfort,West Virginia:Charleston,Pennsylvania:Harrisburg,New York:Albany,New Jersey:Trenton,"
    "Connecticut:Hartford,Vermont:Montpelier,New Hampshire:Concord,Maine:Augusta,Alaska:Juneau,Delaware:Dover,"
    "Maryland:Annapolis,Rhode Island:Providence"
)

# Each pair is one fact: a question asks one direction, the other is never asked (an inverse would leak the answer).
# No answer here keeps the stem of its subject; those that do are practice.
OPPOSITES = table(
    "hot:cold,big:small,fast:slow,happy:sad,high:low,light:dark,wet:dry,young:old,rich:poor,strong:weak,early:late,"
    "open:closed,full:empty,hard:soft,clean:dirty,loud:quiet,left:right,up:down,day:night,good:bad,black:white,"
    "thick:thin,wide:narrow,deep:shallow,heavy:light,sweet:sour,true:false,war:peace,love:hate,life:death,win:lose,"
    "buy:sell,push:pull,give:take,start:stop,begin:end,laugh:cry,remember:forget,above:below,before:after,first:last,"
    "easy:difficult,cheap:expensive,safe:dangerous,smooth:rough,sharp:dull,tight:loose,brave:afraid,polite:rude,"
    "near:far,north:south,east:west,summer:winter,king:queen,positive:negative,success:failure,arrive:leave,"
    "accept:reject,attack:defend,ancient:modern,guilty:innocent,public:private,simple:complex,raw:cooked,"
    "asleep:awake,alive:dead,always:never,beautiful:ugly,friend:enemy,front:back,top:bottom,borrow:lend,husband:wife,"
    "uncle:aunt,son:daughter,mother:father,brother:sister,profit:loss,victory:defeat,entrance:exit,hero:villain,"
    "liquid:solid,expand:contract,vertical:horizontal,major:minor,urban:rural,cause:effect,supply:demand,dawn:dusk,"
    "heaven:hell,predator:prey,absent:present,future:past,few:many,plus:minus,ceiling:floor,odd:even,winner:loser,"
    "multiply:divide,optional:mandatory,sick:healthy,wise:foolish,messy:tidy,girl:boy,bride:groom,analog:digital,"
    "concrete:abstract,credit:debit,float:sink,freeze:melt,whisper:shout,wild:tame,fresh:stale,humble:proud,"
    "generous:selfish,noisy:silent,freedom:slavery,arrival:departure,teacher:student,master:servant,landlord:tenant,"
    "lead:follow,build:destroy,create:destroy,save:spend,sit:stand,rise:fall,throw:catch,send:receive,"
    "praise:criticize,punish:reward,permit:forbid,allow:forbid,hide:reveal,add:subtract,joy:sorrow,pleasure:pain,"
    "hope:despair,courage:fear,truth:lie,birth:death,shiny:dull,straight:crooked,bitter:sweet,temporary:permanent,"
    "artificial:natural,domestic:foreign,common:rare,similar:different,same:different,cruel:kind,gentle:rough,"
    "bold:timid,transparent:opaque,flexible:rigid,broad:narrow,fat:thin,huge:tiny,giant:dwarf,mountain:valley,"
    "wealth:poverty,ally:enemy,amateur:professional,beginner:expert,guest:host,deposit:withdraw,pass:fail,"
    "advance:retreat,inner:outer,upper:lower,former:latter,junior:senior,single:married,plural:singular,"
    "consonant:vowel,prose:poetry,comedy:tragedy,seldom:often,yes:no,hello:goodbye,attract:repel,compress:expand,"
    "shrink:grow,conquer:surrender,sober:drunk,fragile:sturdy,barren:fertile,drought:flood,feast:famine,chaos:order,"
    "virtue:vice,saint:sinner,theory:practice,manual:automatic,static:dynamic,literal:figurative,sow:reap,idle:busy,"
    "knowledge:ignorance,ancestor:descendant,abundant:scarce,accidental:deliberate,alert:drowsy,asset:liability,"
    "clumsy:graceful,bright:dim,clever:stupid,coarse:fine,construct:demolish,curse:blessing,dense:sparse,"
    "eager:reluctant,exact:approximate,fake:real,genuine:fake,exciting:boring,frown:smile,gloomy:cheerful,harsh:mild,"
    "humid:arid,ignite:extinguish,leader:follower,lengthen:shorten,loosen:tighten,loyal:treacherous,misery:happiness,"
    "native:foreign,nervous:calm,occupied:vacant,offer:refuse,oral:written,poison:antidote,problem:solution,"
    "imaginary:real,scatter:gather,serious:funny,silence:noise,spicy:mild,spring:autumn,stationary:moving,"
    "sunny:cloudy,suspicious:trusting,tender:tough,thaw:freeze,thrifty:wasteful,vague:clear,vain:modest,"
    "violent:gentle,voluntary:compulsory,warm:cool,wholesale:retail,wither:bloom,worse:better,worst:best,"
    "frequent:rare,evil:good,glad:sad,swift:slow,pretty:ugly"
)

PLURALS = table(
    "mouse:mice,child:children,foot:feet,tooth:teeth,man:men,woman:women,goose:geese,person:people,leaf:leaves,"
    "wolf:wolves,knife:knives,wife:wives,city:cities,baby:babies,box:boxes,bus:buses,cat:cats,house:houses,"
    "story:stories,country:countries,potato:potatoes,tomato:tomatoes,hero:heroes,church:churches,dish:dishes,"
    "life:lives,half:halves,party:parties,lady:ladies,family:families,watch:watches,fox:foxes,glass:glasses,"
    "shelf:shelves,thief:thieves,ox:oxen,louse:lice,mother:mothers,sister:sisters,cactus:cacti,fungus:fungi,"
    "crisis:crises,elf:elves,hoof:hooves,butterfly:butterflies,puppy:puppies,pony:ponies,penny:pennies,duty:duties,"
    "echo:echoes,volcano:volcanoes,mosquito:mosquitoes,witch:witches,match:matches,lunch:lunches,wish:wishes,"
    "bush:bushes,tax:taxes,ash:ashes,enemy:enemies,diary:diaries,library:libraries,factory:factories,medium:media,"
    "bacterium:bacteria,nucleus:nuclei"
)

LANGUAGES = table(
    "France:French,Germany:German,Italy:Italian,Spain:Spanish,Japan:Japanese,China:Chinese,Russia:Russian,"
    "Egypt:Arabic,Greece:Greek,Portugal:Portuguese,Poland:Polish,Hungary:Hungarian,Norway:Norwegian,Sweden:Swedish,"
    "Finland:Finnish,Denmark:Danish,Turkey:Turkish,Vietnam:Vietnamese,Thailand:Thai,Ukraine:Ukrainian,Israel:Hebrew,"
    "Korea:Korean,Romania:Romanian,Bulgaria:Bulgarian,Iceland:Icelandic,Indonesia:Indonesian,Croatia:Croatian,"
    "Mongolia:Mongolian,Lithuania:Lithuanian,Slovakia:Slovak,Albania:Albanian,Armenia:Armenian,Iran:Persian,"
    "Ethiopia:Amharic,Cambodia:Khmer,Wales:Welsh,Scotland:Gaelic,Serbia:Serbian,Netherlands:Dutch"
)

# A city or a sight and its country; no more than five of a country.
CITIES = table(
    "Munich:Germany,Hamburg:Germany,Cologne:Germany,Milan:Italy,Venice:Italy,the Colosseum:Italy,Seville:Spain,"
    "Valencia:Spain,Lyon:France,Marseille:France,the Louvre:France,Osaka:Japan,Kyoto:Japan,Mount Fuji:Japan,"
    "Shanghai:China,Hong Kong:China,Mumbai:India,Calcutta:India,the Taj Mahal:India,Sydney:Australia,"
    "Melbourne:Australia,Toronto:Canada,Vancouver:Canada,Montreal:Canada,Sao Paulo:Brazil,Istanbul:Turkey,"
    "Karachi:Pakistan,Lahore:Pakistan,Geneva:Switzerland,Zurich:Switzerland,Rotterdam:Netherlands,Antwerp:Belgium,"
    "Krakow:Poland,Salzburg:Austria,Casablanca:Morocco,Alexandria:Egypt,Lagos:Nigeria,Johannesburg:South Africa,"
    "Cape Town:South Africa,Auckland:New Zealand,Manchester:England,Liverpool:England,Stonehenge:England,"
    "Glasgow:Scotland,Saigon:Vietnam,Mecca:Saudi Arabia,Acapulco:Mexico,Busan:South Korea,Bergen:Norway,"
    "Gothenburg:Sweden,Haifa:Israel,Mombasa:Kenya,Aleppo:Syria,Basra:Iraq,Odessa:Ukraine,the Kremlin:Russia,"
    "Siberia:Russia,the Parthenon:Greece,Angkor Wat:Cambodia,Petra:Jordan,Mount Everest:Nepal,"
    "Mount Kilimanjaro:Tanzania,Timbuktu:Mali,Machu Picchu:Peru,Stuttgart:Germany,Naples:Italy,Pompeii:Italy,"
    "Bordeaux:France,Versailles:France,Nagasaki:Japan,Wuhan:China,the Great Wall:China,Bangalore:India,"
    "Brisbane:Australia,Tasmania:Australia,Calgary:Canada,Izmir:Turkey,Basel:Switzerland,Bruges:Belgium,"
    "Waterloo:Belgium,Gdansk:Poland,Auschwitz:Poland,Innsbruck:Austria,Marrakesh:Morocco,Luxor:Egypt,"
    "the Sphinx:Egypt,Kano:Nigeria,Durban:South Africa,Christchurch:New Zealand,Oxford:England,Big Ben:England,"
    "Aberdeen:Scotland,Loch Ness:Scotland,Da Nang:Vietnam,Medina:Saudi Arabia,Cancun:Mexico,Tijuana:Mexico,"
    "Incheon:South Korea,Trondheim:Norway,Malmo:Sweden,Tel Aviv:Israel,Mosul:Iraq,Chernobyl:Ukraine,"
    "Vladivostok:Russia,Sparta:Greece,Crete:Greece,Phuket:Thailand,Chiang Mai:Thailand,Bali:Indonesia,"
    "Sumatra:Indonesia,Cebu:Philippines,Penang:Malaysia,Kandahar:Afghanistan,Isfahan:Iran,Chittagong:Bangladesh,"
    "Medellin:Colombia,Cusco:Peru,Guayaquil:Ecuador,Patagonia:Argentina,Transylvania:Romania,Dubrovnik:Croatia,"
    "Galway:Ireland,Aarhus:Denmark,Lapland:Finland,Zanzibar:Tanzania,Kumasi:Ghana,Benghazi:Libya,Guantanamo:Cuba,"
    "Montego Bay:Jamaica,the Alhambra:Spain"
)

US_CITIES = table(
    "Chicago:Illinois,Houston:Texas,Dallas:Texas,Los Angeles:California,San Francisco:California,"
    "Hollywood:California,Miami:Florida,Orlando:Florida,Seattle:Washington,Detroit:Michigan,"
    "Philadelphia:Pennsylvania,Pittsburgh:Pennsylvania,Las Vegas:Nevada,New Orleans:Louisiana,Baltimore:Maryland,"
    "Milwaukee:Wisconsin,Cleveland:Ohio,Cincinnati:Ohio,Memphis:Tennessee,Louisville:Kentucky,"
    "Charlotte:North Carolina,Portland:Oregon,Omaha:Nebraska,Tucson:Arizona,Albuquerque:New Mexico,Anchorage:Alaska,"
    "Birmingham:Alabama,Buffalo:New York,Newark:New Jersey,Wichita:Kansas,Savannah:Georgia,Fargo:North Dakota,"
    "Tulsa:Oklahoma,Waikiki:Hawaii,Yellowstone:Wyoming,the Grand Canyon:Arizona,Mount Rushmore:South Dakota,"
    "Harvard:Massachusetts,Yale:Connecticut,Salt Lake City:Utah,San Antonio:Texas,San Diego:California,Tampa:Florida,"
    "Tacoma:Washington,Ann Arbor:Michigan,Green Bay:Wisconsin,Toledo:Ohio,Duluth:Minnesota,Kansas City:Missouri,"
    "Saint Louis:Missouri,Reno:Nevada,Eugene:Oregon,Fairbanks:Alaska,Brooklyn:New York,Manhattan:New York,"
    "Princeton:New Jersey,Roswell:New Mexico,Aspen:Colorado,Boulder:Colorado,Gettysburg:Pennsylvania,"
    "Cedar Rapids:Iowa,Sioux Falls:South Dakota,Biloxi:Mississippi"
)

AUTHORS = table(
    "Hamlet:Shakespeare,Romeo and Juliet:Shakespeare,Macbeth:Shakespeare,Pride and Prejudice:Austen,Emma:Austen,"
    "Great Expectations:Dickens,Oliver Twist:Dickens,Moby Dick:Melville,Frankenstein:Shelley,Dracula:Stoker,"
    "The Odyssey:Homer,The Iliad:Homer,Anna Karenina:Tolstoy,Crime and Punishment:Dostoevsky,Don Quixote:Cervantes,"
    "The Hobbit:Tolkien,The Great Gatsby:Fitzgerald,Animal Farm:Orwell,Brave New World:Huxley,Jane Eyre:Bronte,"
    "Wuthering Heights:Bronte,Harry Potter:Rowling,Peter Pan:Barrie,Treasure Island:Stevenson,Robinson Crusoe:Defoe,"
    "Huckleberry Finn:Twain,Tom Sawyer:Twain,The Jungle Book:Kipling,The Time Machine:Wells,The Invisible Man:Wells,"
    "Les Miserables:Hugo,The Three Musketeers:Dumas,Faust:Goethe,The Divine Comedy:Dante,Ulysses:Joyce,"
    "The Metamorphosis:Kafka,The Trial:Kafka,The Stranger:Camus,Candide:Voltaire,Heart of Darkness:Conrad,"
    "The Raven:Poe,Walden:Thoreau,Little Women:Alcott,The Republic:Plato,Leviathan:Hobbes,"
    "The Scarlet Letter:Hawthorne,The Secret Garden:Burnett,Paradise Lost:Milton,The Aeneid:Virgil,"
    "The Canterbury Tales:Chaucer,Beloved:Morrison,Lolita:Nabokov"
)

# What a science is called by what it studies.
SCIENCES = table(
    "plants:botany,animals:zoology,stars:astronomy,rocks:geology,life:biology,the mind:psychology,"
    "weather:meteorology,numbers:mathematics,earthquakes:seismology,fossils:paleontology,insects:entomology,"
    "birds:ornithology,fish:ichthyology,the heart:cardiology,the skin:dermatology,cells:cytology,the brain:neurology,"
    "words:etymology,the past:history,poisons:toxicology,religion:theology,heredity:genetics,"
    "matter and energy:physics,maps:cartography,money:economics,ancient ruins:archaeology,"
    "human cultures:anthropology,blood:hematology,the eyes:ophthalmology,cancer:oncology,right and wrong:ethics,"
    "reasoning:logic,shapes:geometry,handwriting:graphology,the kidneys:nephrology,children:pediatrics,"
    "caves:speleology,trees:dendrology,fungi:mycology,tissues:histology,drugs:pharmacology,disease:pathology,"
    "the universe:cosmology,sound:acoustics,light:optics,heat:thermodynamics,motion:kinematics,languages:linguistics,"
    "reptiles:herpetology,flags:vexillology,coins:numismatics,aging:gerontology,beauty:aesthetics,lakes:limnology,"
    "substances:chemistry,whales:cetology,populations:demography"
)

PROFESSIONS = table(
    "flies planes:pilot,cuts hair:barber,fixes teeth:dentist,designs buildings:architect,repairs cars:mechanic,"
    "studies stars:astronomer,studies plants:botanist,studies rocks:geologist,cooks food:chef,fixes pipes:plumber,"
    "cuts down trees:lumberjack,studies weather:meteorologist,studies fossils:paleontologist,sells meat:butcher,"
    "sells flowers:florist,treats sick animals:veterinarian,defends clients:lawyer,leads an orchestra:conductor,"
    "writes news articles:journalist,makes clothes:tailor,repairs shoes:cobbler,travels in space:astronaut,"
    "grows crops:farmer,shapes hot iron:blacksmith,makes wooden furniture:carpenter,studies animals:zoologist,"
    "performs operations:surgeon,carves statues:sculptor,rides race horses:jockey,breaks into houses:burglar,"
    "predicts the future:fortune teller,keeps financial records:accountant,works underground:miner,"
    "hunts illegally:poacher,studies insects:entomologist,serves in court:judge,tells jokes:comedian,"
    "solves crimes:detective,rules an empire:emperor"
)

# What one does something with.
TOOLS = table(
    "cut paper:scissors,open a lock:key,dig a hole:shovel,sweep the floor:broom,eat soup:spoon,"
    "watch the stars:telescope,find north:compass,draw straight lines:ruler,take pictures:camera,chop wood:axe,"
    "sew clothes:needle,light a candle:match,tell time:clock,drive in nails:hammer,tighten a bolt:wrench,"
    "cut wood:saw,cut bread:knife,stay dry:umbrella,catch fish:net,catch mice:trap,cook eggs:pan,wash hands:soap,"
    "water plants:hose,row a boat:oar,listen to hearts:stethoscope,magnify small cells:microscope,"
    "write on blackboards:chalk,carry shopping:bag,climb walls:ladder,keep food cold:refrigerator,"
    "cross a river:bridge,dry yourself:towel,paint a picture:brush,shave:razor,tow a car:truck,shoot arrows:bow,"
    "measure temperature:thermometer,measure air pressure:barometer,weigh yourself:scale,measure angles:protractor"
)

# The unit in which a quantity is counted.
UNITS = table(
    "force:newton,energy:joule,power:watt,electric current:ampere,resistance:ohm,frequency:hertz,pressure:pascal,"
    "mass:kilogram,length:meter,loudness:decibel,luminous intensity:candela,electric charge:coulomb,"
    "magnetic flux:weber,capacitance:farad,inductance:henry,radioactivity:becquerel,land area:acre,gold purity:karat"
)

ORGANS = table(
    "pumps blood:heart,thinks:brain,smells:nose,tastes:tongue,digests food:stomach,filters blood:kidney,"
    "breathes air:lungs,sees:eye,hears:ear,chews:teeth,produces bile:liver,covers the body:skin,"
    "makes insulin:pancreas,stores urine:bladder,bends the arm:elbow,bends the leg:knee,holds the head:neck,"
    "protects the brain:skull,supports the body:skeleton,grips objects:hand,kicks a ball:foot"
)

MATERIALS = table(
    "bread:flour,glass:sand,wine:grapes,cheese:milk,butter:cream,paper:wood,tires:rubber,chocolate:cocoa,"
    "raisins:grapes,steel:iron,bricks:clay,cider:apples,jeans:denim,pencil leads:graphite,sushi:rice,tofu:soybeans,"
    "hummus:chickpeas,sake:rice,sauerkraut:cabbage,guacamole:avocado,ketchup:tomatoes,windows:glass,books:paper,"
    "shoes:leather,candles:wax,sweaters:wool,coins:metal,ivory:tusks,beer:barley,snow:ice,houses:bricks,"
    "omelettes:eggs,french fries:potatoes,pickles:cucumbers,prunes:plums,caviar:fish,honey:nectar,bronze:copper"
)

EXTREMES = table(
    "largest ocean:Pacific,largest planet:Jupiter,smallest planet:Mercury,hottest planet:Venus,"
    "largest continent:Asia,tallest animal:giraffe,fastest land animal:cheetah,largest animal:blue whale,"
    "hardest mineral:diamond,largest organ:skin,lightest element:hydrogen,closest star:sun,longest river:Nile,"
    "largest country:Russia,smallest country:Vatican City,tallest mountain:Everest,largest bird:ostrich,"
    "highest waterfall:Angel Falls,largest desert:Sahara,largest state:Alaska,smallest state:Rhode Island,"
    "largest island:Greenland,longest bone:femur,deepest lake:Baikal,smallest ocean:Arctic,driest desert:Atacama,"
    "coldest continent:Antarctica,largest land animal:elephant,largest rainforest:Amazon,slowest animal:sloth,"
    "largest artery:aorta,hottest season:summer,coldest season:winter,largest reptile:crocodile,"
    "most common gas:nitrogen"
)

DEFINITIONS = table(
    "frozen water:ice,frozen rain:hail,a baby bed:crib,melted rock:lava,a dead body:corpse,"
    "a three sided shape:triangle,a six sided shape:hexagon,an eight sided shape:octagon,a round shape:circle,"
    "a female ruler:queen,a male chicken:rooster,a female horse:mare,a female sheep:ewe,ten years:decade,"
    "a hundred years:century,a thousand years:millennium,seven days:week,sixty minutes:hour,sixty seconds:minute,"
    "twelve months:year,twenty four hours:day,water vapor:steam,the evening meal:dinner,the morning meal:breakfast,"
    "the midday meal:lunch,an underground railway:subway,a written law:statute,a large stream:river,"
    "a tall building:skyscraper,an animal doctor:veterinarian,a fear of heights:acrophobia,"
    "a fear of spiders:arachnophobia,a map book:atlas,meat from cows:beef,meat from pigs:pork,meat from deer:venison,"
    "a fake name:alias,two musicians:duet,four singers:quartet,a meat eater:carnivore,a plant eater:herbivore,"
    "a dry hot land:desert,the red planet:Mars,the ringed planet:Saturn,our galaxy:Milky Way,our planet:Earth,"
    "the first man:Adam,the first woman:Eve,a Jewish temple:synagogue,a Muslim temple:mosque,"
    "the Muslim holy book:Quran,the Jewish holy book:Torah,the Christian holy book:Bible,a fire mountain:volcano,"
    "a huge ocean wave:tsunami,a spinning wind:tornado,frozen dew:frost,thick mist:fog,a horse with wings:Pegasus,"
    "a bird of peace:dove"
)

# Who made, wrote or discovered it.
CREATORS = table(
    "the telephone:Bell,the light bulb:Edison,gravity:Newton,relativity:Einstein,evolution:Darwin,penicillin:Fleming,"
    "radium:Curie,dynamite:Nobel,the airplane:Wright,the radio:Marconi,the steam engine:Watt,"
    "the printing press:Gutenberg,the assembly line:Ford,America:Columbus,the electron:Thomson,oxygen:Priestley,"
    "the vaccine:Jenner,the lightning rod:Franklin,the telegraph:Morse,the battery:Volta,psychoanalysis:Freud,"
    "the periodic table:Mendeleev,the cotton gin:Whitney,quantum theory:Planck,Uranus:Herschel,"
    "the electric motor:Faraday,buoyancy:Archimedes,genetics:Mendel,communism:Marx,alternating current:Tesla,"
    "the Mona Lisa:Leonardo,The Starry Night:Van Gogh,Guernica:Picasso,The Nutcracker:Tchaikovsky,"
    "The Magic Flute:Mozart,The Four Seasons:Vivaldi,Mickey Mouse:Disney,Sherlock Holmes:Doyle,Microsoft:Gates,"
    "Facebook:Zuckerberg,Amazon:Bezos"
)

ORIGINS = table(
    "sushi:Japan,pizza:Italy,tacos:Mexico,paella:Spain,croissants:France,curry:India,kimchi:Korea,goulash:Hungary,"
    "vodka:Russia,samba:Brazil,tango:Argentina,reggae:Jamaica,flamenco:Spain,bagpipes:Scotland,kangaroos:Australia,"
    "giant pandas:China,judo:Japan,yoga:India,the sauna:Finland,waffles:Belgium,feta cheese:Greece,Lego:Denmark,"
    "Volvo:Sweden,Ikea:Sweden,Toyota:Japan,the Olympic Games:Greece,Guinness:Ireland,Gouda cheese:Netherlands,"
    "Swatch:Switzerland,Mozart:Austria,Beethoven:Germany,Chopin:Poland,Gandhi:India,Nelson Mandela:South Africa,"
    "Napoleon:France,Fidel Castro:Cuba,Confucius:China,Cleopatra:Egypt,Picasso:Spain,pyramids:Egypt"
)
